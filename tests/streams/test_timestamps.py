"""Times as sources write them, as seconds."""

import pytest

from driftlm.streams.timestamps import timestamp_of


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("1970-01-01", 0.0),
        ("1970-01-01T01:00:00+01:00", 0.0),
        ("1970-01-01 00:01", 60.0),
        ("1970", 0.0),
        ("1968", -63158400.0),
        ("0.5", 0.5),
        ("1714521600", 1714521600.0),
        (" 1970-01-02 ", 86400.0),
        ("nan", None),
        ("inf", None),
        ("spring", None),
        ("", None),
        (None, None),
    ],
)
def test_a_time_is_seconds_since_1970(time: str | None, seconds: float | None) -> None:
    assert timestamp_of(time) == seconds
