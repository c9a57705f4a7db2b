"""What verbs print: JSON objects and facts on stdout, lines about what happens on stderr; settings by their flags."""

import json
import re
import sys
from typing import Any

SETTING = re.compile(r"`\w+\.(?!jsonl?`|py`|sqlite`)([a-z_]+)`")  # a field of settings, and no name of a file
# Fields whose flags have other names.
FLAGS = {"start_from": "from", "kind": "as", "way": "aggregation", "golds": "gold"}


def show(facts: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    print(json.dumps(facts, allow_nan=False), flush=True)


def said(facts: dict[str, Any], as_json: bool) -> int:
    """Print facts as JSON, or line by line; returns the exit code of what went well."""
    if as_json:
        show(facts)
    else:
        for name, value in facts.items():
            print(f"{name}: {', '.join(value) if isinstance(value, list) else value}")
    return 0


def tell(line: str) -> None:
    """Print a line about what happens on stderr, at once."""
    print(f"driftlm: {line}", file=sys.stderr, flush=True)


def in_flags(sentence: str) -> str:
    """An error that names settings by their fields, with the flags of the command line in their place.

    Example:
        >>> in_flags("`Learning.rank` was 0; give at least 1, or go on from a folder with `Stream.start_from`.")
        '--rank was 0; give at least 1, or go on from a folder with --from.'
    """

    def flag(setting: re.Match[str]) -> str:
        return "--" + FLAGS.get(setting[1], setting[1]).replace("_", "-")

    return SETTING.sub(flag, sentence)
