"""What is on the screen while a stream is read: a small table on a terminal, a line now and then elsewhere."""

import math
import os
import sys
import time
from collections import deque
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live as Screen
from rich.table import Table
from rich.text import Text

EVERY = 5.0  # seconds between two plain lines
RECENT = 30.0  # seconds that the speed is taken over: the first windows are slow, and documents differ
MISSING = "–"


class Totals(Protocol):
    """Sums over what was read so far; scores in nats, `static_nats` is None where nothing is compared."""

    @property
    def tokens(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def nats(self) -> float: ...
    @property
    def static_nats(self) -> float | None: ...
    @property
    def rollbacks(self) -> int: ...


class Live:
    """Shows how a reading goes, on stderr only: stdout belongs to results.

    Args:
        total_tokens: tokens the stream will have, for the time left; None where unknown.
        enabled: False shows nothing at all.

    Example:
        >>> from types import SimpleNamespace
        >>> with Live(total_tokens=200, enabled=False) as live:
        ...     live.update(SimpleNamespace(tokens=100, bytes=400, nats=250.0, static_nats=260.0, rollbacks=0), "a")
        >>> live.line().split("; ")[:2]
        ['100 of 200 tokens', '0.938 → 0.902 bits per byte (3.8 % fewer)']
    """

    def __init__(self, total_tokens: int | None, enabled: bool = True) -> None:
        self.total_tokens, self.enabled = total_tokens, enabled
        self._totals: Totals | None = None
        self._document = ""
        self._marks: deque[tuple[float, int]] = deque()  # clock, tokens: at most one a second, of the last 30 s
        self._screen: Screen | None = None
        self._printed: tuple[float, int] | None = None  # clock and tokens of the last plain line

    def __enter__(self) -> Self:
        if self.enabled and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            # a redirected stdout would come out on stderr, inside the table
            self._screen = Screen(
                get_renderable=self.table, console=Console(file=sys.stderr), redirect_stdout=False, refresh_per_second=4
            )
            self._screen.start()
        self._printed = (time.monotonic(), -1)
        return self

    def update(self, totals: Totals, document_id: str) -> None:
        """Take note of what has been read, up to some window of a document."""
        now = time.monotonic()
        self._totals, self._document = totals, document_id
        if not self._marks or now - self._marks[-1][0] >= 1:
            self._marks.append((now, totals.tokens))
            while now - self._marks[0][0] > RECENT and len(self._marks) > 2:
                self._marks.popleft()
        if self._screen is None and self._printed is not None and now - self._printed[0] >= EVERY:
            self._print(now)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._screen is not None:
            self._screen.stop()
            self._screen = None
        elif self._totals is not None and self._printed is not None and self._printed[1] != self._totals.tokens:
            self._print(time.monotonic())

    def _print(self, now: float) -> None:
        if self.enabled and self._totals is not None:
            self._printed = (now, self._totals.tokens)
            sys.stderr.write(self.line() + "\n")
            sys.stderr.flush()

    def speed(self) -> float | None:
        """Return the tokens per second of late; None before the second window."""
        if self._totals is None or not self._marks:
            return None
        seconds, tokens = time.monotonic() - self._marks[0][0], self._totals.tokens - self._marks[0][1]
        return tokens / seconds if tokens > 0 and seconds > 0 else None

    def _values(self) -> dict[str, str]:
        """Return what there is to say, in words."""
        totals = self._totals
        if totals is None:
            return {"tokens": "waiting for the first window"}
        speed, total = self.speed(), self.total_tokens
        values = {"tokens": f"{totals.tokens:,}" + (f" of {total:,}" if total is not None else "")}
        if totals.static_nats is not None:
            values["bits per byte, static"] = _bits(totals.static_nats, totals.bytes)
        values["bits per byte, adapted"] = _bits(totals.nats, totals.bytes)
        if totals.static_nats is not None:
            values["gain"] = _gain(totals.static_nats, totals.nats)
        values["tokens per second"] = MISSING if speed is None else f"{speed:,.0f}"
        if total is not None:
            left = None if speed is None else max(total - totals.tokens, 0) / speed
            values["time left"] = MISSING if left is None else _clock(left)
        values["rollbacks"] = f"{totals.rollbacks:,}"
        values["document"] = _printable(self._document)
        return values

    def table(self) -> Table:
        """Return the table of a terminal. Text comes as it is: an id is never markup."""
        table = Table.grid(padding=(0, 2))
        styles = {"bits per byte, static": "cyan", "bits per byte, adapted": "yellow", "gain": "bold"}
        for name, value in self._values().items():
            table.add_row(Text(name, style="dim"), Text(value, style=styles.get(name, "")))
        return table

    def line(self) -> str:
        """Return everything in one plain line."""
        values = self._values()
        if self._totals is None:
            return values["tokens"]
        static, adapted = values.get("bits per byte, static"), values["bits per byte, adapted"]
        parts = [f"{values['tokens']} tokens"]
        parts.append(f"{static} → {adapted} bits per byte ({values['gain']})" if static else f"{adapted} bits per byte")
        parts.append(f"{values['tokens per second']} tokens/s")
        if "time left" in values:
            parts.append(f"{values['time left']} left")
        if self._totals.rollbacks:
            parts.append(f"rollbacks: {values['rollbacks']}")
        return "; ".join([*parts, values["document"]])


def _bits(nats: float, size: int) -> str:
    return f"{nats / math.log(2) / size:.3f}" if size and math.isfinite(nats) else MISSING


def _gain(static: float, adapted: float) -> str:
    """Return bits saved in percent, in words: a sign alone is misread."""
    if not (static > 0 and math.isfinite(static) and math.isfinite(adapted)):
        return MISSING
    percent = 100 * (static - adapted) / static
    if abs(percent) < 0.05:
        return "0.0 %"
    return f"{abs(percent):.1f} % {'fewer' if percent > 0 else 'MORE'}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _printable(text: str, longest: int = 60) -> str:
    """Return an id that cannot steer a terminal or break a line; of a long one, the end."""
    text = "".join(c if c.isprintable() else "�" for c in text)
    return text if len(text) <= longest else "…" + text[-(longest - 1) :]
