"""Text in: documents, and the windows they are read in."""
