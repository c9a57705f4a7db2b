"""Measuring: the score-then-learn loop, its live view, and the report of a run."""
