"""What verbs print: JSON objects and facts on stdout, lines about what happens on stderr."""

import json
import sys
from typing import Any


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
