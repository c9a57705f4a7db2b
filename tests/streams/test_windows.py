"""A document on its grid: every token new exactly once, short windows whole, nothing of the length ahead shows."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from driftlm import DriftError, Windows
from driftlm.streams.windows import split
from tests.support.reference.reading import grid, overlapping_inputs


@st.composite
def documents(draw: st.DrawFn) -> tuple[list[int], list[int], int, int]:
    """`[BOS, x1 ... xn]`, byte ends, context, stride."""
    context = draw(st.integers(1, 20))
    stride = draw(st.integers(1, context))
    widths = draw(st.lists(st.integers(0, 4), min_size=1, max_size=50))
    ends = [sum(widths[: i + 1]) for i in range(len(widths))]
    return list(range(len(widths) + 1)), ends, context, stride


@given(document=documents())
@example(document=([0, 1], [3], 1, 1))  # one token
@example(document=(list(range(10)), list(range(1, 10)), 4, 4))  # C = S, a last window of one token
@example(document=(list(range(9)), list(range(1, 9)), 8, 4))  # ends with a window
@example(document=(list(range(4)), list(range(1, 4)), 16, 8))  # shorter than a window
def test_windows_are_those_of_the_definition(document: tuple[list[int], list[int], int, int]) -> None:
    ids, ends, context, stride = document
    windows = list(split("d", ids, ends, Windows("overlapping", context, stride)))
    assert [(w.position, w.new) for w in windows] == list(grid(len(ids) - 1, stride))
    assert [token for window in windows for token in window.targets] == ids[1:]
    assert [window.index for window in windows] == list(range(len(windows)))
    assert [window.last for window in windows] == [False] * (len(windows) - 1) + [True]
    assert sum(window.bytes for window in windows) == ends[-1] and all(window.bytes >= 0 for window in windows)
    for window in windows:
        assert window.document == "d" and window.position == 1 + window.index * stride
        assert list(window.inputs) == overlapping_inputs(ids, window.position, window.new, context, stride)
        assert window.new <= len(window.inputs) <= context
        # The input before each target predicts it.
        assert list(window.inputs[-window.new :]) == [token - 1 for token in window.targets]
        assert window.bytes == ends[window.position + window.new - 2] - ([0, *ends])[window.position - 1]


@given(document=documents(), cut=st.integers(1, 50), first=st.integers(0, 60))
def test_a_documents_length_shows_only_in_its_last_window(
    document: tuple[list[int], list[int], int, int], cut: int, first: int
) -> None:
    ids, ends, context, stride = document
    windows = Windows("cached", context, stride)
    whole = list(split("d", ids, ends, windows))
    short = list(split("d", ids[: cut + 1], ends, windows))
    assert short[:-1] == whole[: len(short) - 1]
    last, full = short[-1], whole[len(short) - 1]
    assert last.inputs == full.inputs[: len(last.inputs)] and last.targets == full.targets[: last.new]
    # A resumed run begins with any window.
    assert list(split("d", ids, ends, windows, first)) == whole[first:]


def test_neighbours_share_the_context_that_was_asked_for() -> None:
    windows = list(split("d", list(range(101)), list(range(1, 101)), Windows("overlapping", 10, 4)))
    assert [len(window.inputs) for window in windows[:4]] == [4, 8, 10, 10]
    for left, right in pairwise(windows[2:]):
        assert right.inputs[:6] == left.inputs[4:]


def test_a_document_without_tokens_has_no_window() -> None:
    assert list(split("d", [0], [], Windows())) == []


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (("sliding", 8, 4), "`Windows.window` was 'sliding'; give overlapping or cached"),
        (("cached", 8, 0), "`Windows.stride` was 0.*give 1 or more"),
        (("cached", 8, -3), "`Windows.stride` was -3"),
        (("cached", 0, 1), "^`Windows.context` was 0.*give 1 or more"),
        (("overlapping", -4, 0), "^`Windows.context` was -4"),
        (("cached", 8, 9), "`Windows.stride` 9 exceeds `Windows.context` 8.*at most 8"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(settings: tuple[str, int, int], sentence: str) -> None:
    with pytest.raises(DriftError, match=sentence):
        Windows(*settings)  # type: ignore[arg-type]
