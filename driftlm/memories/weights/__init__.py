"""Memory in weights: score, then learn by gradient."""
