"""A real trained model on a real book: learning has to pay."""

from pathlib import Path

import pytest

from driftlm import Learning, WeightMemory, Windows, read_stream

pytestmark = pytest.mark.long


@pytest.mark.parametrize(
    ("windows", "learning"),
    [
        (Windows("cached", 256, 128), Learning(rule="sgd", learning_rate=0.05)),
        (Windows("overlapping", 256, 128), Learning(rule="adam", learning_rate=1e-3)),
        (Windows("cached", 256, 128), Learning(learn="lora", rule="adam", learning_rate=3e-3)),
    ],
    ids=["sgd", "adam", "lora"],
)
def test_a_story_model_learns_a_novel(shared: Path, windows: Windows, learning: Learning) -> None:
    memory = WeightMemory(shared / "models" / "stories260k", windows, learning)
    book = shared / "data" / "books" / "pg19_349.txt"
    *_, last = read_stream(memory, book, baseline=memory.static(), limit=8_000)
    assert last.totals.static_nats_per_token is not None
    assert last.totals.nats_per_token < 0.85 * last.totals.static_nats_per_token
    assert last.totals.rollbacks == 0
