"""Memories that answer questions: asked, compared, and what they cost and lose."""
