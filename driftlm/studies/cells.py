"""One cell of a study: what is read, by which memory, and the key under which its row is kept; no heavy import."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.memories.weights.learning import Learning
from driftlm.storage.files import sha256_of
from driftlm.streams.windows import Windows

LATER: dict[str, Any] = {"protect": "none", "options": {}}  # settings that the keys of earlier rows do not hold


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
        model: folder; empty for the bundled model.
        order: `given`, text after text; `shuffled`, by document; `documents:K` and `tokens:N`, by turns from every
            text K documents or N tokens. Always the same tokens; where a document is cut for its turn, each part is a
            document of its own.
        skip: tokens of each text that come before those that are read, and are left out.
        tuned: passes of Adam over the skipped part; the prior is what they leave.
        hindsight: passes of Adam over what is read itself: fixed parameters that know the text.
        rate: η at the first step of those passes.
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
        held: dict[str, Any] = asdict(self) | {"model": fingerprint, "learning": self.learning.described()}
        for name, default in LATER.items():
            if held["learning"][name] == default:
                del held["learning"][name]
        digest = hashlib.sha256(json.dumps(held, sort_keys=True).encode())
        for one in self.texts:
            digest.update(hash_of(data / one).encode())
        return digest.hexdigest()


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise DriftError(
            f"{path}: {error.strerror}; give a `ClaimStudy.data` folder that holds the texts of the study."
        ) from error
