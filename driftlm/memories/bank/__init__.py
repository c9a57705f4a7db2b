"""Memory in a bank: a document becomes a modulation in one forward pass; a question aggregates the bank."""
