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

REPOSITORY = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)  # scores depend on the thread count in their last bits, and tiny models gain nothing from two
# Wall-clock limits per example fail on a busy machine, and a failure has to come back on the next run.
hypothesis.settings.register_profile("driftlm", deadline=None, derandomize=True)
hypothesis.settings.load_profile("driftlm")


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
