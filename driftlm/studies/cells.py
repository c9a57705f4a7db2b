"""One cell of a study: what is read, by which memory, and the key under which its row is kept; no heavy import."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from driftlm.core.errors import DriftError
from driftlm.memories.weights.learning import Learning
from driftlm.storage.files import sha256_of
from driftlm.streams.windows import Windows

# Settings that the keys of earlier rows do not hold, as they were then.
LATER: dict[str, Any] = {"dtype": "float32", "learning": {"protect": "none", "options": {}}}


@dataclass(frozen=True)
class Cell:
    """A text read by a memory in weights, and everything that its row depends on; plain JSON.

    `driftlm.studies.measuring.measure` makes its row.

    Attributes:
        setting: names the setting within the study, such as `cached C=512 S=128`; rows are grouped by it.
        texts: paths below the data folder: `.txt`, one document, or `.jsonl`, many.
        tokens: most that are read, of all texts together; each text gives an equal share.
        windows: how documents are cut.
        learning: what changes, by which rule.
        model: folder, GGUF file or name of a fetched one; empty for the bundled model.
        dtype: that it computes in.
        order: `given`, text after text; `shuffled`, by document; `documents:K` and `tokens:N`, by turns from every
            text K documents or N tokens. Always the same tokens; where a document is cut for its turn, each part is a
            document of its own.
        skip: tokens of each text that come before those that are read, and are left out.
        tuned: passes over the skipped part, in all weights; the prior is what they leave.
        hindsight: passes over what is read itself: fixed parameters that know the text.
        rate: η of the rule relative at the first step of those passes.
        seed: of the shuffling, of the order of the passes' windows, and of a LoRA.

    Example:
        >>> Cell("static", ("books/a.txt", "books/b.txt"), 1000, learning=Learning("none")).text
        'a+b'
    """

    setting: str
    texts: tuple[str, ...]
    tokens: int
    windows: Windows = Windows()  # noqa: RUF009 - frozen
    learning: Learning = Learning()  # noqa: RUF009 - frozen
    model: str = ""
    dtype: Literal["float32", "bfloat16"] = "float32"
    order: str = "given"
    skip: int = 0
    tuned: int = 0
    hindsight: int = 0
    rate: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.texts or self.tokens < len(self.texts):
            raise DriftError(
                f"the reading {self.setting!r} has {self.tokens} tokens of {len(self.texts)} texts; "
                f"give at least one text, and one token of each."
            )
        if self.tuned and self.hindsight:
            raise DriftError(f"the reading {self.setting!r} is tuned both before and on its text; give one of them.")
        if bool(self.tuned) > bool(self.skip) or bool(self.tuned or self.hindsight) != (self.rate > 0):
            raise DriftError(
                f"the reading {self.setting!r} has tuned={self.tuned}, hindsight={self.hindsight}, skip={self.skip}, "
                f"rate={self.rate}; passes need a rate, and those before the text a part that is skipped."
            )
        self.turns()

    def turns(self) -> tuple[str, int]:
        """Return `order` as a word and a number, which is 0 where the word takes none."""
        word, colon, number = self.order.partition(":")
        if word in ("given", "shuffled") and not colon:
            return word, 0
        if word in ("documents", "tokens") and number.isdigit() and int(number):
            return word, int(number)
        raise DriftError(f"the order was {self.order!r}; give given, shuffled, documents:K or tokens:N.")

    @property
    def text(self) -> str:
        """Return the texts' names without folder and suffix."""
        return "+".join(PurePosixPath(one).stem for one in self.texts)

    def key(self, data: Path, fingerprint: str) -> str:
        """Return the SHA-256 of all that the row depends on: this, the model, and the bytes of the texts.

        Args:
            data: the folder that the texts are in.
            fingerprint: of the model, in whose place its folder does not count.
        """
        held = without(asdict(self) | {"model": fingerprint, "learning": self.learning.described()}, LATER)
        if self.tuned or self.hindsight:
            held["passes"] = "relative"  # those of earlier rows were Adam's
        digest = hashlib.sha256(json.dumps(held, sort_keys=True).encode())
        for one in self.texts:
            digest.update(hash_of(data / one).encode())
        return digest.hexdigest()


def without(settings: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """Return the settings without those that came later and are as they were before.

    Example:
        >>> without({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 2, "d": 4}})
        {'b': {'d': 3}}
    """
    kept = {}
    for name, value in settings.items():
        before = later.get(name, ...)
        if isinstance(value, dict) and isinstance(before, dict) and value != before:
            kept[name] = without(value, before)
        elif value != before:
            kept[name] = value
    return kept


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise DriftError(
            f"{path}: {error.strerror}; give a `ClaimStudy.data` folder that holds the texts of the study."
        ) from error
