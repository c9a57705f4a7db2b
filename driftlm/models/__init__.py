"""The frozen language model: loading, scoring, caches, and which of its parameters may change."""
