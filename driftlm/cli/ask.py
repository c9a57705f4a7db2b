"""The verb `ask`."""

from pathlib import Path

import tyro

from driftlm.cli.output import show
from driftlm.memories.bank.settings import EXACT, Aggregation
from driftlm.models.machine import Machine


def ask(
    questions: tyro.conf.Positional[tuple[str, ...]],
    machine: Machine,
    aggregation: Aggregation = EXACT,
    *,
    bank: str,
    networks: str = "",
    tokens: int = 24,
    beams: int = 1,
    json: bool = False,
) -> int:
    """Answer questions from a bank, and say which documents were attended to.

    Args:
        questions: each in quotes.
        machine: which model; the bank's own where none is given.
        aggregation: attend to the whole bank or to part of it.
        bank: its folder.
        networks: the bank's networks, where they moved.
        tokens: longest answer.
        beams: of the search for an answer; 1 is greedy.
        json: one JSON object a question on stdout.
    """
    from driftlm.homes.bank_folder import ask as ask_bank

    for found in ask_bank(questions, Path(bank), machine, networks, tokens, beams=beams, aggregation=aggregation):
        if json:
            show(found)
            continue
        print(found["answer"])
        for document in found["documents"]:
            print(f"  {document['weight']:6.1%}  {document['id']}")
    return 0
