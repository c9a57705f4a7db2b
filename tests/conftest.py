"""What every test gets: no network, one thread, the same seeds, and the development data where there is any."""

import os

# Read when transformers is imported, so they are set before anything else is.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin starve the others of a busy machine
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")

import random
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from tests.support.families import FAMILIES
from tests.support.marking import markers_of

REPOSITORY = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)  # scores depend on the thread count in their last bits, and tiny models gain nothing from two
# Wall-clock limits per example fail on a busy machine, and a failure has to come back on the next run.
hypothesis.settings.register_profile("driftlm", deadline=None, derandomize=True)
hypothesis.settings.register_profile("quick", deadline=None, derandomize=True, max_examples=1)
hypothesis.settings.load_profile("driftlm")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--family NAME`, beside pytest's own options."""
    parser.addoption("--family", help="of the tests that run on several model families, run those on this one")


def pytest_configure(config: pytest.Config) -> None:
    """One family is asked for by who wants an answer soon: fewer random examples, before tests take their settings."""
    if config.getoption("--family"):
        hypothesis.settings.load_profile("quick")


def family_of(item: pytest.Item) -> str | None:
    """The model family a test is parametrised with."""
    given = getattr(item, "callspec", None)
    values = () if given is None else given.params.values()
    named = {getattr(value, "family", value) for value in values if isinstance(getattr(value, "family", value), str)}
    return next(iter(named & set(FAMILIES)), None)


@pytest.hookimpl(tryfirst=True)  # before pytest selects by markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what runs whole commands or processes of its own; leave out other families than the one asked for."""
    for item in items:
        fixtures = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009 - pytest has no public name for it
        made_by = [one.func for several in fixtures.values() for one in several]
        for marker in markers_of(getattr(item, "function", None), *made_by):
            item.add_marker(marker)
    chosen = config.getoption("--family")
    left = [item for item in items if chosen and family_of(item) not in (None, chosen)]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in set(left)]


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Start every test from the same random state, whichever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of development data beside the checkout; a fresh clone has none, and the test is skipped."""
    folder = Path(os.environ.get("DRIFTLM_SHARED") or REPOSITORY.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"no development data at {folder}; DRIFTLM_SHARED names another folder")
    return folder
