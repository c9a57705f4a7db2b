"""The live view: on stderr only, plain where there is no terminal, and safe with any id."""

import io
import re
import sys
from dataclasses import dataclass

import pytest

from driftlm.report import live_table as module
from driftlm.report.live_table import Live


@dataclass
class Totals:
    tokens: int = 0
    bytes: int = 0
    nats: float = 0.0
    static_nats: float | None = None
    rollbacks: int = 0


class Clock:
    """A monotonic clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def after(windows: int, nats: float = 380.0, static: float | None = 400.0) -> Totals:
    return Totals(windows * 128, windows * 400, windows * nats, None if static is None else windows * static)


def test_plain_lines_come_every_five_seconds_and_at_the_end(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Live(12_800) as live:
        for window in range(1, 31):
            clock.now += 0.5
            live.update(after(window), "a.txt")
    out, err = capsys.readouterr()
    assert out == ""
    assert [int(line.split()[0].replace(",", "")) // 128 for line in err.splitlines()] == [10, 20, 30]
    assert err.splitlines()[-1] == (
        "3,840 of 12,800 tokens; 1.443 → 1.371 bits per byte (5.0 % fewer); 256 tokens/s; 0:35 left; a.txt"
    )
    assert "\x1b" not in err


def test_a_short_reading_has_one_last_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Live(None) as live:
        live.update(after(1, static=None), "a.txt")
    assert capsys.readouterr() == ("", "128 tokens; 1.371 bits per byte; – tokens/s; a.txt\n")


def test_the_last_line_is_not_said_twice(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Live(None) as live:
        clock.now += 6
        live.update(after(1), "a.txt")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_failure_passes_through_after_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    live = Live(None).__enter__()
    live.update(after(3), "a.txt")
    assert not live.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err.startswith("384 tokens; ")


def test_nothing_read_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Live(100):
        pass
    assert capsys.readouterr() == ("", "")


def test_disabled_shows_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Live(100, enabled=False) as live:
        clock.now += 60
        live.update(after(3), "a.txt")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("nats", "static", "said"),
    [(360.0, 400.0, "10.0 % fewer"), (440.0, 400.0, "10.0 % MORE"), (400.0, 400.0, "0.0 %")],
)
def test_a_loss_is_said_in_words(nats: float, static: float, said: str) -> None:
    live = Live(None)
    live.update(after(2, nats, static), "a")
    assert f"({said})" in live.line()


def test_no_bytes_and_no_finite_score_give_dashes() -> None:
    live = Live(0)
    live.update(Totals(tokens=2, bytes=0, nats=3.0, static_nats=0.0), "a")
    assert live.line() == "2 of 0 tokens; – → – bits per byte (–); – tokens/s; – left; a"
    live.update(Totals(tokens=2, bytes=9, nats=float("nan"), static_nats=3.0), "a")
    assert "nan" not in live.line()


def test_speed_is_that_of_late_and_of_this_reading_alone(clock: Clock) -> None:
    """A resumed run starts with the tokens of the one before; a slow start is forgotten after half a minute."""
    live = Live(1_001_280)
    live.update(Totals(tokens=1_000_000, bytes=1, nats=1.0), "a")
    clock.now += 60
    live.update(Totals(tokens=1_000_010, bytes=1, nats=1.0), "a")
    assert live.speed() == pytest.approx(10 / 60)
    for second in range(1, 61):
        clock.now += 1
        live.update(Totals(tokens=1_000_010 + 20 * second, bytes=1, nats=1.0), "a")
    assert live.speed() == pytest.approx(20)
    assert "; 0:04 left; " in live.line()


def test_ids_cannot_steer_the_terminal_or_break_the_line() -> None:
    live = Live(None)
    live.update(after(1), "x" * 100 + "\x1b[31m\n[bold]end[/bold]")
    assert live.line().endswith("�[31m�[bold]end[/bold]")
    assert live.line().rsplit("; ", 1)[1].startswith("…") and "\n" not in live.line()


def test_a_terminal_gets_a_table_on_stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", terminal)
    with Live(12_800) as live:
        live.update(after(30), "books/[red]a[/red].txt")
        print("{}")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    last = shown.split("tokens  ")[-1]
    for part in (
        "3,840 of 12,800",
        "1.443",
        "1.371",
        "5.0 % fewer",
        "time left",
        "rollbacks",
        "books/[red]a[/red].txt",
    ):
        assert part in last
    assert capsys.readouterr().out == "{}\n"
    assert "{}" not in shown


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stderr", terminal)
    with Live(None) as live:
        live.update(after(1), "a.txt")
    assert terminal.getvalue().count("\n") == 1 and "\x1b" not in terminal.getvalue()
