"""The verb `generate`."""

from typing import Annotated

import tyro

from driftlm.models.machine import Machine


def generate(
    prompt: tyro.conf.Positional[str],
    machine: Machine,
    start_from: Annotated[str, tyro.conf.arg(name="from")] = "",
    tokens: int = 100,
    temperature: float = 0.8,
    seed: int = 0,
) -> int:
    """Continue a prompt, with what a run learned.

    Args:
        prompt: text to continue.
        machine: which model.
        start_from: a run or a PEFT or HuggingFace folder to start from.
        tokens: most tokens to add.
        temperature: of the sampling; 0 takes the likeliest token every time.
        seed: of the sampling.
    """
    from driftlm.runs.generation import continuation

    print(continuation(prompt, machine, start_from, tokens=tokens, temperature=temperature, seed=seed))
    return 0
