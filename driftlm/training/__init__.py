"""The verbs `train`: each learns step by step, is watched on what it never saw, stops and goes on at any time."""
