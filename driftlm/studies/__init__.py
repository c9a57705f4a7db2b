"""Published claims, run again: readings of texts, measured by an engine, kept, and concluded from."""
