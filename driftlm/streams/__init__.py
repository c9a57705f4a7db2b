"""Text in: documents, datasets, questions, facts that change, and the windows they are cut into."""
