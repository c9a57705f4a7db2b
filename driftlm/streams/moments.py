"""When a document is from, as a number."""

import math
from datetime import UTC, datetime


def moment_of(time: str | None) -> float | None:
    """Seconds since 1970 of a time as a source writes it, or None where it cannot be read.

    Understood: ISO 8601 dates and times (UTC where no zone is given), years of four digits, and other plain numbers,
    which are seconds already.

    Example:
        >>> moment_of("1970-01-02"), moment_of("1969"), moment_of("12.5"), moment_of("last week")
        (86400.0, -31536000.0, 12.5, None)
    """
    if time is None:
        return None
    text = time.strip()
    if len(text) == 4 and text.isdecimal() and text != "0000":
        text = f"{text}-01-01"
    try:
        seconds = float(text)
        return seconds if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
