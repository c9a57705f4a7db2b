"""When a document is from, as a number."""

import math
import re
from datetime import UTC, datetime

UNDERSTOOD = "a date such as 2024-05-01, a year, or seconds since 1970"


def timestamp_of(time: str | None) -> float | None:
    """Return the seconds since 1970 of a time as a source writes it, or None where it cannot be read.

    Understood: ISO 8601 dates and times (UTC where no zone is given; `20240501` is a date), years, years with a month,
    and other plain numbers, which are seconds already.

    Example:
        >>> timestamp_of("1970-01-02"), timestamp_of("1969"), timestamp_of("12.5"), timestamp_of("last week")
        (86400.0, -31536000.0, 12.5, None)
        >>> timestamp_of("19700102"), timestamp_of("1970-02")
        (86400.0, 2678400.0)
    """
    if time is None:
        return None
    text = time.strip()
    if re.fullmatch(r"\d{4}(-\d{2})?", text, re.ASCII):
        text = f"{text}-01-01"[:10]
    if not re.fullmatch(r"\d{8}", text, re.ASCII):
        try:
            seconds = float(text) if "_" not in text else math.nan
            return seconds if math.isfinite(seconds) else None
        except ValueError:
            pass
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
