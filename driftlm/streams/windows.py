"""A document becomes windows on a fixed grid: every token is new in exactly one of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from driftlm.core.errors import DriftError


@dataclass(frozen=True)
class Windows:
    """How a document is cut; counts are tokens.

    Attributes:
        window: Feed up to `context` tokens again and again (`overlapping`), or only the tokens that predict new ones,
            which attend to the keys and values of the `context - stride` before (`cached`, Transformer-XL style).
        context: Let a new token depend on so many tokens, the window's own included (C).
        stride: Score so many new tokens in one window (S <= C).
        sink: Keep so many of a document's first tokens, BOS among them, at the left of every window that would not
            hold them, on top of the context (n). Attention of many models rests on them, and scores badly without.
    """

    window: Literal["overlapping", "cached"] = "overlapping"
    context: int = 512
    stride: int = 256
    sink: int = 1

    def __post_init__(self) -> None:
        if self.window not in ("overlapping", "cached"):
            raise DriftError(f"`Windows.window` was {self.window!r}; give overlapping or cached.")
        if self.context < 1:
            raise DriftError(
                f"`Windows.context` was {self.context}; a token needs at least 1 before it, so give 1 or more."
            )
        if self.stride < 1:
            raise DriftError(
                f"`Windows.stride` was {self.stride}; a window scores at least 1 new token, so give 1 or more."
            )
        if self.stride > self.context:
            raise DriftError(
                f"`Windows.stride` {self.stride} exceeds `Windows.context` {self.context}, which would leave tokens "
                f"unread; "
                f"give a stride of at most {self.context}."
            )
        if self.sink < 0:
            raise DriftError(f"`Windows.sink` was {self.sink}; give a number of tokens, or 0 for none.")

    @property
    def longest(self) -> int:
        """Return the most tokens that attend to each other: the context and the sink before it."""
        return self.context + self.sink

    @property
    def kept(self) -> int:
        """Return the positions whose keys and values a cached window keeps for the next (C - S)."""
        return self.context - self.stride

    @staticmethod
    def of(held: Mapping[str, Any]) -> "Windows":
        """Return what a folder holds; one written before there were sinks keeps its grid, which had none."""
        return Windows(**{"sink": 0, **held})


@dataclass(frozen=True)
class Window:
    """The tokens fed in one forward pass, and which of them are new.

    With `ids = [BOS, x1 ... xn]` window w scores positions `p ... p + new - 1`, `p = 1 + w S`.

    Attributes:
        document: the document's id.
        index: w, counted from 0 within the document.
        position: p, the position in `ids` of the first new token.
        inputs: `ids[max(0, p - 1 + S - C) : p - 1 + new]`: at most C tokens; the left end is where a full window
            would have it, so the document's length never shows. A cached memory feeds only the last `new`.
        sink: `ids[:min(n, p - 1)]`, which stand before the inputs where these do not hold them.
        targets: the `new` tokens themselves; the last `new` inputs predict them.
        bytes: UTF-8 bytes of the source that the targets span.
        last: whether the document ends here.
    """

    document: str
    index: int
    position: int
    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    bytes: int
    last: bool
    sink: tuple[int, ...] = ()

    @property
    def new(self) -> int:
        """Return the number of new tokens."""
        return len(self.targets)

    @property
    def start(self) -> int:
        """Return the position in `ids` of the first input."""
        return self.position - 1 + self.new - len(self.inputs)


def split(
    document: str, ids: Sequence[int], byte_ends: Sequence[int], windows: Windows, first: int = 0
) -> Iterator[Window]:
    """Yield the windows of one document.

    Args:
        document: its id.
        ids: `[BOS, x1 ... xn]`, n >= 1.
        byte_ends: n numbers; `byte_ends[i]` is where token x(i+1) ends in the source, in UTF-8 bytes.
        windows: the grid.
        first: index of the first window to yield (a resumed run starts in mid-document).

    Example:
        >>> grid = Windows("overlapping", context=4, stride=2)
        >>> [(w.inputs, w.targets) for w in split("d", [0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5], grid)]
        [((0, 1), (1, 2)), ((0, 1, 2, 3), (3, 4)), ((2, 3, 4), (5,))]
        >>> [w.sink[: w.start] for w in split("d", [0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5], grid)]
        [(), (), (0,)]
    """
    context, stride = windows.context, windows.stride
    for p in range(1 + first * stride, len(ids), stride):
        stop = min(p + stride, len(ids))
        yield Window(
            document=document,
            index=(p - 1) // stride,
            position=p,
            inputs=tuple(ids[max(0, p - 1 + stride - context) : stop - 1]),
            targets=tuple(ids[p:stop]),
            bytes=byte_ends[stop - 2] - (byte_ends[p - 2] if p > 1 else 0),
            last=stop == len(ids),
            sink=tuple(ids[: min(windows.sink, p - 1)]),
        )
