"""The frozen language model: loaded, scored with, cached, and the parts of it that may change."""
