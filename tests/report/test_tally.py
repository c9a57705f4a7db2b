"""The numbers of a report, recomputed from the lines with nothing of the package's own code."""

import math
import random
import time
import tracemalloc
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from driftlm.core.errors import DriftError
from driftlm.report.page import number
from driftlm.report.tally import Positions, read_tally
from tests.support.made_runs import Line, long_stream, run_folder, stream, tally_of, weighed

pytestmark = pytest.mark.long


@pytest.mark.parametrize("windows", [1, 3, 57, 999, 1000, 1001, 4321])
def test_lines_are_running_sums_and_lose_no_window(windows: int) -> None:
    lines = stream([windows * 128 - 5])
    tally = tally_of(lines)
    points = tally.points()
    ends = [*range(tally.size, windows, tally.size), windows]
    assert len(points) == len(ends) <= 1000
    span = tally.local // tally.size
    for i, (end, point) in enumerate(zip(ends, points)):
        read = lines[:end]
        size = sum(line["bytes"] for line in read) * math.log(2)
        nats, static = (math.fsum(line[key] for line in read) for key in ("nats", "static_nats"))
        assert point.tokens == sum(line["tokens"] for line in read)
        assert point.adapted == pytest.approx(nats / size) and point.static == pytest.approx(static / size)
        assert point.gain == pytest.approx(static - nats)
        if i + 1 < span:
            assert point.adapted_local is None
        else:
            near = lines[ends[i - span] if i >= span else 0 : end]
            bits = math.fsum(line["nats"] for line in near) / math.log(2)
            assert point.adapted_local == pytest.approx(bits / sum(line["bytes"] for line in near))
    if windows > 500:
        assert 0.015 * windows <= tally.local <= 0.025 * windows


def test_gain_by_position_is_a_sum_divided_once() -> None:
    lines = stream([3000, 400, 90, 1500, 700, 600, 2100])
    found = {(b.first, b.last): b for b in tally_of(lines).positions.bins()}
    expected: dict[tuple[int, int], list[Line]] = defaultdict(list)
    edges = [(1, 256), (257, 512), (513, 1024), (1025, 2048), (2049, 4096)]
    for line in lines:
        expected[next((a, b) for a, b in edges if a <= line["position"] <= b)].append(line)
    assert found.keys() == expected.keys()
    for edge, group in expected.items():
        tokens = sum(line["tokens"] for line in group)
        assert found[edge].tokens == tokens
        assert found[edge].documents == len({line["document"] for line in group})
        assert found[edge].gain == pytest.approx(sum(line["static_nats"] - line["nats"] for line in group) / tokens)
        assert (found[edge].low is None) == (found[edge].documents < 5)


def test_windows_wider_than_a_bin_widen_the_first_bin() -> None:
    bins = tally_of(stream([5000, 300], stride=512)).positions.bins()
    assert [(b.first, b.last) for b in bins] == [(1, 512), (513, 1024), (1025, 2048), (2049, 4096), (4097, 8192)]
    assert [b.documents for b in bins] == [2, 1, 1, 1, 1]
    assert sum(b.tokens for b in bins) == 5300


def test_intervals_are_those_of_resampled_documents() -> None:
    chance = random.Random(1)
    documents = [(chance.uniform(-10, 50), chance.randrange(50, 200)) for _ in range(300)]
    positions = Positions()
    for gain, tokens in documents:
        positions.add(1, tokens, gain)
        positions.finish()
    (found,) = positions.bins()
    data, draws = np.array(documents), np.random.default_rng(5).integers(0, 300, (4000, 300))
    sums = data[draws].sum(axis=1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
    assert found.low is not None and found.high is not None and found.low < found.gain < found.high
    assert found.high - found.low == pytest.approx(high - low, rel=0.15)  # two resamplings, 400 and 4,000 draws
    assert found.low == pytest.approx(low, rel=0.05) and found.high == pytest.approx(high, rel=0.05)


def test_the_same_run_gives_the_same_intervals() -> None:
    lines = stream([900] * 12)
    assert tally_of(lines).positions.bins() == tally_of(lines).positions.bins()


@pytest.mark.parametrize("windows", [1, 57, 1001, 4321])
def test_weights_of_experts_are_those_of_the_last_window_of_a_bucket(windows: int) -> None:
    lines = weighed(stream([windows * 100, 77], stride=100), [2, 0, 1, 0])
    tally = tally_of(lines)
    ends = [*range(tally.size, windows + 1, tally.size), windows + 1]
    found = tally.expert_weights()
    assert len(found) == len(ends) <= 1000
    assert [list(point.weights) for point in found] == [lines[end - 1]["weights"] for end in ends]
    assert [point.tokens for point in found] == [sum(line["tokens"] for line in lines[:end]) for end in ends]
    assert found[-1].document == "d1.txt" and found[0].document == "d0.txt"


def test_the_lead_is_followed_from_window_to_window() -> None:
    lines = weighed(stream([9 * 100], stride=100), [2, 0, 1, 0])  # leads from windows 2, 4, 6 and 8, the first being 1
    leads = [tally_of(lines[:count]).lead for count in range(1, 10)]
    assert leads[0] is None  # all alike
    assert [(lead.expert, lead.before, lead.changes) for lead in leads[1:] if lead] == [
        *[(2, None, 0)] * 2,
        *[(0, 2, 1)] * 2,
        *[(1, 0, 2)] * 2,
        *[(0, 1, 3)] * 2,
    ]
    assert [lead.since for lead in leads[1:] if lead] == [100, 100, 300, 300, 500, 500, 700, 700]


def test_without_a_mixture_there_are_no_weights() -> None:
    tally = tally_of(stream([500]))
    assert tally.expert_weights() == [] and tally.lead is None


def test_other_experts_in_the_middle_are_refused(tmp_path: Path) -> None:
    lines = weighed(stream([500]), [1])
    lines[2]["weights"] = [0.5, 0.5]
    with pytest.raises(DriftError, match="line 3 .*2 experts follow 3"):
        read_tally(run_folder(tmp_path, lines) / "windows.jsonl")


def test_windows_without_bytes_divide_nothing() -> None:
    (point,) = tally_of([stream([50])[0] | {"bytes": 0}]).points()
    assert point.adapted is None and number(point.adapted) == "–"


@pytest.mark.parametrize("line", ['{"window": 3}', "[1]", "{]", '{"window": 0}'])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    folder = run_folder(tmp_path, stream([300]))
    with (folder / "windows.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DriftError, match=r"windows\.jsonl line 4 holds no window"):
        read_tally(folder / "windows.jsonl")


def test_a_window_counted_twice_is_refused(tmp_path: Path) -> None:
    lines = stream([300])
    folder = run_folder(tmp_path, [*lines, lines[-1]])
    with pytest.raises(DriftError, match="window 2 follows window 2"):
        read_tally(folder / "windows.jsonl")


def test_memory_does_not_grow_with_the_stream(tmp_path: Path) -> None:
    peaks = []
    for windows in (10_000, 40_000):
        long_stream(tmp_path / "windows.jsonl", windows)
        tracemalloc.start()
        read_tally(tmp_path / "windows.jsonl").positions.bins()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 8e6


def test_a_long_stream_is_counted_in_seconds(tmp_path: Path) -> None:
    long_stream(tmp_path / "windows.jsonl", 200_000)
    begun = time.perf_counter()
    tally = read_tally(tmp_path / "windows.jsonl")
    bins = tally.positions.bins()
    assert time.perf_counter() - begun < 30  # 4 s where nothing else runs
    assert tally.documents == 10_000 and len(tally.rows) == 500
    assert tally.event_kinds == {"rollback": 2_000} and len(tally.events) == 200
    assert tally.total.nats == pytest.approx(200_000 * 350.5) and tally.updates == 200_000
    assert len(tally.points()) <= 1000 and tally.points()[-1].tokens == 200_000 * 128
    assert sum(b.tokens for b in bins) == 200_000 * 128
    assert [b.documents for b in bins] == [10_000] * 5
