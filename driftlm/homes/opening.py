"""A home by its folder alone, with the model that it was made with, on the machine that it names."""

from dataclasses import replace
from pathlib import Path

import torch

from driftlm.core.errors import DriftError
from driftlm.homes.home import Home
from driftlm.homes.identity import described
from driftlm.memories.settings import MemorySettings
from driftlm.models.loading import LanguageModel
from driftlm.models.machine import Machine


def opened(folder: str | Path) -> Home:
    """Return the home in a folder.

    Raises:
        DriftError: when there is none, or its model or machine is not to be had.
    """
    facts = described(folder)
    try:
        machine = Machine(**facts["machine"])
    except TypeError as error:
        raise DriftError(f"{folder}/home.json names a machine that this driftlm does not know; update it.") from error
    if not machine.threads:  # nobody knows on how many it has read: none are measured that may be others
        machine = replace(machine, threads=torch.get_num_threads())
    return Home.open(folder, loaded(machine, facts["model"]["name"]))


def made(folder: str | Path, settings: MemorySettings, machine: Machine) -> str:
    """Make a home in a folder, and close it; returns the name of its model.

    Raises:
        DriftError: when the folder holds anything, or the model is not to be had.
    """
    model, machine = loaded_for_new(machine)
    with Home.create(folder, model, settings, machine=machine) as home:
        return str(home.facts["model"]["name"])


def loaded_for_new(machine: Machine) -> tuple[LanguageModel, Machine]:
    """Return the model of homes that are to be made, and the machine as they name it: the same bits need the same
    threads, those that were asked for or found to be the fastest now.
    """
    return loaded(machine, machine.model), replace(machine, threads=torch.get_num_threads())


def loaded(machine: Machine, name: str) -> LanguageModel:
    """Return a model as homes have it: on as many threads as the machine says, and giving the same bits every time."""
    return replace(machine, model=name).load()
