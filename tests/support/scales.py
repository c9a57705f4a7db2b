"""Scales at which tests ask studies for their readings."""

from driftlm.studies.study import Scale, study_of

MODELS = ("build/one", "build/four", "build/sixteen")


def scale_of(name: str, tokens: int = 9_000, seeds: int = 2, texts: int = 0) -> Scale:
    """The scale of a study, with models where it compares several."""
    return Scale(tokens, seeds, texts, MODELS if study_of(name).several else ())
