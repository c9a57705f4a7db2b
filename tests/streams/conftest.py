"""Sources that are followed in little time."""

import pytest

from driftlm.streams.tail import sources as module


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.005)
    monkeypatch.setattr(module, "SETTLED", 0.15)
