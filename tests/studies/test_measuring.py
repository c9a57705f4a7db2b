"""Rows of readings against plain readings, hand computation and torch's own Adam."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from driftlm.core.errors import DriftError
from driftlm.memories.loop import Totals, read_stream
from driftlm.memories.weights.dynamic import WeightMemory
from driftlm.memories.weights.learning import Learning
from driftlm.memories.weights.mixture import MixtureMemory
from driftlm.models.loading import load
from driftlm.streams.windows import Windows
from driftlm.studies.cells import Cell
from driftlm.studies.measuring import measure
from driftlm.studies.parts import Part, Tokenized, parts_of
from tests.support.running import tiny_model, words

pytestmark = pytest.mark.long

GRID = Windows("cached", 32, 16)
SGD = Learning(rule="sgd", learning_rate=0.2)
STILL = Learning("none")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two texts of one document, and two of many."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "a.txt").write_text(words(150), encoding="utf-8")
    (folder / "b.txt").write_text("Où était-elle? 日本 " + words(140, 1), encoding="utf-8")
    for name, first in (("many", 10), ("other", 20)):
        lines = [
            json.dumps({"id": "same", "text": words(9 + number % 5, number)}) for number in range(first, first + 9)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    tiny_model(folder)
    return folder


def reading(data: Path, *texts: str, tokens: int = 100_000, **settings: Any) -> Cell:
    given = {"windows": GRID, "learning": SGD, "model": str(tiny_model(data))} | settings
    return Cell("it", texts, tokens, **given)


def plainly(data: Path, path: str, learning: Learning, windows: Windows = GRID, limit: int | None = None) -> Totals:
    """A text read as `driftlm read` reads it, without any part or order."""
    memory = WeightMemory(load(tiny_model(data)), windows, learning)
    *_, last = read_stream(memory, data / path, limit=limit)
    return last.totals


@pytest.mark.parametrize("windows", [GRID, Windows("overlapping", 32, 8)])
@pytest.mark.parametrize("limit", [None, 77])
def test_a_whole_text_costs_what_reading_it_costs(data: Path, windows: Windows, limit: int | None) -> None:
    row = measure(reading(data, "b.txt", tokens=limit or 100_000, windows=windows), data)
    adapted, static = (plainly(data, "b.txt", one, windows, limit) for one in (SGD, STILL))
    assert (row["tokens"], row["bytes"], row["nats"]) == (adapted.tokens, adapted.bytes, adapted.nats)
    assert row["bits_per_byte"] == adapted.bits_per_byte and row["static_bits_per_byte"] == static.bits_per_byte
    assert row["gain"] == pytest.approx(1 - adapted.nats / static.nats) and row["gain"] > 0
    assert row["updates"] == math.ceil(row["tokens"] / windows.stride)
    assert row["fingerprint"] == load(tiny_model(data)).fingerprint
    assert row["prior_bits_per_byte"] is None and row["experts"] is None and row["rollbacks"] == 0
    json.dumps(row, allow_nan=False)


def test_a_reading_computes_in_its_dtype(data: Path) -> None:
    exact, short = (measure(reading(data, "a.txt", dtype=dtype), data) for dtype in ("float32", "bfloat16"))
    assert exact["fingerprint"] == short["fingerprint"] and short["reading"]["dtype"] == "bfloat16"
    assert exact["nats"] != short["nats"] == pytest.approx(exact["nats"], rel=0.01)
    assert short["memory_bytes"] < exact["memory_bytes"]


def test_a_static_reading_gains_nothing(data: Path) -> None:
    row = measure(reading(data, "a.txt", learning=STILL), data)
    assert row["gain"] == 0 and row["updates"] == 0 and row["memory_bytes"] == 0
    assert row["bits_per_byte"] == row["static_bits_per_byte"] == plainly(data, "a.txt", STILL).bits_per_byte
    assert row["flops_per_token"] == row["static_flops_per_token"] > 0
    assert 0 < row["bytes_moved_per_token"] < measure(reading(data, "a.txt"), data)["bytes_moved_per_token"]


def test_what_one_reading_learned_is_not_in_the_next(data: Path) -> None:
    """They share the loaded model and the static pass, which learning leaves as they were."""
    still = reading(data, "a.txt", learning=STILL)
    hindsight = reading(data, "a.txt", learning=STILL, hindsight=1, rate=1e-2)
    first, learned, tuned = (measure(one, data) for one in (still, reading(data, "a.txt"), hindsight))
    assert len({one["nats"] for one in (first, learned, tuned)}) == 3
    assert {one["static_bits_per_byte"] for one in (first, learned, tuned)} == {first["bits_per_byte"]}
    assert measure(still, data)["nats"] == first["nats"]
    assert measure(reading(data, "a.txt"), data)["nats"] == learned["nats"]


def test_positions_are_of_tokens(data: Path) -> None:
    row = measure(reading(data, "many.jsonl"), data)
    places: dict[int, list[float]] = {}
    memory = WeightMemory(load(tiny_model(data)), GRID, SGD)
    for step in read_stream(memory, data / "many.jsonl"):
        for i, nats in enumerate(step.nats.tolist()):
            place = step.window.position + i
            while place & (place - 1):  # down to a power of two
                place &= place - 1
            places.setdefault(place, []).append(nats)
    assert [one["from"] for one in row["positions"]] == sorted(places)
    for one in row["positions"]:
        assert one["tokens"] == len(places[one["from"]])
        assert one["nats"] == pytest.approx(sum(places[one["from"]]), rel=1e-6)
    assert row["positions"][0]["tokens"] == 9 and sum(one["tokens"] for one in row["positions"]) == row["tokens"]


# ----------------------------------------------------------------------------------------------------- parts and orders


def parts(data: Path, **settings: Any) -> list[Part]:
    one = reading(data, "many.jsonl", "other.jsonl", **settings)
    return parts_of(load(tiny_model(data)), one, data)[1]


ORDERS = ["given", "shuffled", "documents:1", "documents:4", "tokens:13", "tokens:1000000"]


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_reads_the_same_tokens(data: Path, order: str) -> None:
    given, other, again = (parts(data, tokens=200, order=one) for one in ("given", order, order))
    tokens, ordered = (sorted(token for part in one for token in part.ids[1:]) for one in (given, other))
    assert tokens == ordered and len(tokens) == 200 and other == again
    assert sum(part.byte_ends[-1] for part in given) == sum(part.byte_ends[-1] for part in other)
    assert len({part.id for part in other}) == len(other)


def test_turns_go_round_the_texts(data: Path) -> None:
    first = [part.id.split("/")[1:] for part in parts(data, order="documents:4")]
    assert first == [
        *[["many", str(i)] for i in range(4)],
        *[["other", str(i)] for i in range(4)],
        *[["many", str(i)] for i in range(4, 8)],
        *[["other", str(i)] for i in range(4, 8)],
        ["many", "8"],
        ["other", "8"],
    ]
    turns = [(part.id.split("/")[1], part.tokens) for part in parts(data, tokens=200, order="tokens:40")]
    assert sum(tokens for _, tokens in turns) == 200
    whole = "".join(name[0] * tokens for name, tokens in turns)
    assert whole == "m" * 40 + "o" * 40 + "m" * 40 + "o" * 40 + "m" * 20 + "o" * 20


def test_seeds_shuffle_differently(data: Path) -> None:
    orders = [[part.id for part in parts(data, order="shuffled", seed=seed)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(orders[2])
    assert orders[0] != [part.id for part in parts(data)]


def test_what_is_skipped_and_read_is_the_text(data: Path) -> None:
    """Also where a character is split over tokens: the bytes are those of the text."""
    language_model = load(tiny_model(data))
    text = (data / "b.txt").read_text(encoding="utf-8")
    ids, ends = language_model.encode(text)
    for skip in (1, 3, 17, 30):
        skipped, read = parts_of(language_model, reading(data, "b.txt", skip=skip, tokens=50), data)
        assert skipped[0].ids[1:] + read[0].ids[1:] == ids[1 : skip + 51]
        assert read[0].ids[0] == language_model.bos
        assert read[0].byte_ends == [end - ends[skip - 1] for end in ends[skip : skip + 50]]


def test_each_text_gives_an_equal_share(data: Path) -> None:
    assert measure(reading(data, "a.txt", "b.txt", tokens=101, learning=STILL), data)["tokens"] == 100


def test_a_text_that_ends_too_soon_is_refused(data: Path) -> None:
    with pytest.raises(DriftError, match="a.txt has .* skips 90,000"):
        measure(reading(data, "a.txt", skip=90_000), data)


# --------------------------------------------------------------------------------------------------------- tuned priors


def test_hindsight_knows_its_text(data: Path) -> None:
    settings = {"learning": STILL, "rate": 0.1}
    rows = [measure(reading(data, "a.txt", hindsight=passes, **settings), data) for passes in (1, 3)]
    assert rows[0]["static_bits_per_byte"] > rows[0]["bits_per_byte"] > rows[1]["bits_per_byte"]
    assert rows[1]["static_bits_per_byte"] == plainly(data, "a.txt", STILL).bits_per_byte
    assert rows[1]["prior_bits_per_byte"] == rows[1]["bits_per_byte"]
    assert rows[1]["updates"] == 0


def test_tuning_is_relative_with_a_falling_rate(data: Path) -> None:
    """Passes over one window, by torch.optim.Adam on the model itself: η, then η / 2, in proportion to sizes."""
    rate, skip = 0.05, 16
    row = measure(reading(data, "a.txt", learning=SGD, skip=skip, tokens=64, tuned=2, rate=rate), data)
    language_model = load(tiny_model(data))
    ids = torch.tensor([language_model.encode((data / "a.txt").read_text())[0]])
    model = language_model.model.requires_grad_(True)
    inputs = [one.shape[-1] if one.ndim > 1 else 256 for one in model.parameters()]
    sizes = [float(one.detach().square().mean()) ** 0.5 for one in model.parameters()]
    ratios = [size / count**0.5 for size, count in zip(sizes, inputs, strict=True)]
    adam = torch.optim.Adam([{"params": [one]} for one in model.parameters()])
    for step in (rate / 4, rate / 2 * 2 / 4):  # the first four are its warm-up
        for group, ratio in zip(adam.param_groups, ratios, strict=True):
            group["lr"] = step * ratio
        adam.zero_grad()
        logits = model(ids[:, :skip]).logits[0]
        torch.nn.functional.cross_entropy(logits, ids[0, 1 : skip + 1]).backward()
        adam.step()
    adam.zero_grad()
    model.requires_grad_(False)
    (part,) = parts_of(language_model, reading(data, "a.txt", skip=skip, tokens=64), data)[1]
    tokenized = Tokenized.of(language_model, [part])
    for name, learning in (("prior_bits_per_byte", STILL), ("bits_per_byte", SGD)):
        *_, last = read_stream(WeightMemory(tokenized, GRID, learning), tokenized.documents())
        assert row[name] == pytest.approx(last.totals.bits_per_byte, rel=1e-5)
    assert row["prior_bits_per_byte"] != row["static_bits_per_byte"]


# ------------------------------------------------------------------------------------------------ seeds, experts, bytes


def test_a_seed_is_of_the_lora(data: Path) -> None:
    learning = Learning("lora", rank=2, learning_rate=0.05)
    rows = [measure(reading(data, "a.txt", learning=learning, tokens=96, seed=seed), data) for seed in (0, 0, 1)]
    assert rows[0]["nats"] == rows[1]["nats"] != rows[2]["nats"]
    assert rows[0]["static_bits_per_byte"] == rows[2]["static_bits_per_byte"]
    language_model = load(tiny_model(data))
    lora = WeightMemory(language_model, GRID, learning).parameters
    assert rows[0]["memory_bytes"] == 6 * 4 * sum(p.numel() for p in lora)  # θ, θ₀, gradient, guard's, two moments


def test_a_mixture_says_what_its_experts_did(data: Path) -> None:
    learning = Learning(rule="mixture", experts="0,sgd:0.2")
    row = measure(reading(data, "a.txt", learning=learning), data)
    memory = MixtureMemory(load(tiny_model(data)), GRID, learning.strategies())
    *_, last = read_stream(memory, data / "a.txt")
    assert row["nats"] == last.totals.nats
    assert row["experts"] == memory.expert_weights() and [one["name"] for one in row["experts"]] == [
        "adam:0",
        "sgd:0.2",
    ]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"texts": ()}, "at least one text"),
        ({"texts": ("a", "b"), "tokens": 1}, "one token of each"),
        ({"order": "random"}, "order was 'random'"),
        ({"order": "tokens:0"}, "documents:K or tokens:N"),
        ({"order": "given:3"}, "order"),
        ({"tuned": 1, "rate": 0.1}, "a part that is skipped"),
        ({"hindsight": 1}, "passes need a rate"),
        ({"rate": 0.1}, "passes need a rate"),
        ({"tuned": 1, "hindsight": 1, "skip": 5, "rate": 0.1}, "one of them"),
    ],
)
def test_impossible_readings_are_refused(settings: dict[str, Any], why: str) -> None:
    given: dict[str, Any] = {"texts": ("a.txt",), "tokens": 10} | settings
    with pytest.raises(DriftError, match=why):
        Cell("it", **given)
