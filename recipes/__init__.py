"""How the bundled model and the shipped results were made."""
