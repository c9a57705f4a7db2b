"""The totals as they are committed, computed again; and the comparison of two tables."""

import json
import math
from pathlib import Path

import pytest

from benchmarks.same_totals import differing
from tests.pins.totals import GROUPS, computed

pytestmark = pytest.mark.long

PINNED = json.loads((Path(__file__).parent / "totals.json").read_bytes())
LONG = {"families", "bundled"}  # what they show alone is pinned in fewer settings by the others too


@pytest.mark.parametrize("group", [pytest.param(one, marks=pytest.mark.slow if one in LONG else ()) for one in GROUPS])
def test_totals_are_the_pinned_ones(group: str) -> None:
    expected = {name: row for name, row in PINNED.items() if name.startswith(f"{group}: ")}
    found = computed([group])
    assert found.keys() == expected.keys() and expected
    different = [
        f"{name}: {row['numbers']}, pinned {expected[name]['numbers']}"
        for name, row in found.items()
        if len(row["numbers"]) != len(expected[name]["numbers"])
        or row.get("texts") != expected[name].get("texts")
        or not all(map(near, row["numbers"], expected[name]["numbers"]))
    ]
    assert not different, "\n".join(different)


def near(number: float, pinned: float) -> bool:
    """Equal to 1e-6, or to 2e-5 where few tokens make the sum, as on another machine; the digests hold the bits."""
    return math.isclose(number, pinned, rel_tol=1e-6, abs_tol=2e-5)


def test_every_group_is_pinned() -> None:
    assert {name.partition(": ")[0] for name in PINNED} == set(GROUPS)


def test_a_difference_in_the_last_bit_is_named() -> None:
    row = {"numbers": [1.0, 3.0], "digest": "ab", "texts": ["Lisbon"]}
    table = {"same": row, "number": row, "digest": row, "gone": row}
    other = {"same": dict(row), "number": row | {"numbers": [math.nextafter(1.0, 2.0), 3.0]}}
    other |= {"digest": row | {"digest": "cd"}, "new": row}
    assert differing(table, table) == []
    assert differing(table, other) == [
        "digest: digest ab -> cd",
        "gone: only before",
        "new: only after",
        "number: numbers [1.0, 3.0] -> [1.0000000000000002, 3.0]",
    ]
    assert differing({"zero": {"numbers": [0.0]}}, {"zero": {"numbers": [-0.0]}}) == ["zero: numbers [0.0] -> [-0.0]"]
