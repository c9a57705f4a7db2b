"""Text encoders by the names that the command line takes: a kind, and the folders it is read from."""

from pathlib import Path
from typing import NamedTuple

from driftlm.core.errors import DriftError
from driftlm.memories.context.dense import Encoder
from driftlm.memories.context.encoders import PooledEncoder, Pooling, StatesOfModel
from driftlm.memories.context.sentence_encoder import SentenceEncoder
from driftlm.memories.registries import ENCODERS
from driftlm.memories.settings import STATES
from driftlm.models.loading import LanguageModel

SENTENCE, DUAL = "sentence", "dpr"
POOLED: dict[str, tuple[Pooling, bool]] = {  # pooling, and whether vectors get length 1
    "contriever": ("mean", False),
    "mean": ("mean", True),
    "bge": ("cls", True),
    DUAL: ("cls", False),
}
NAMES = (STATES, *(f"{kind}:FOLDER{',QUESTION_FOLDER' if kind == DUAL else ''}" for kind in (*POOLED, SENTENCE)))


class Named(NamedTuple):
    """An encoder's name in parts; folders are those of documents and, where it is another, of questions."""

    kind: str
    folders: tuple[str, ...] = ()


def parsed(name: str) -> Named:
    """Return the parts of an encoder's name; nothing is read. Only `dpr` has two folders, elsewhere a comma is part of
    one.

    Raises:
        DriftError: for a kind that is unknown, or folders that are missing or too many.

    Example:
        >>> parsed("dpr:context,question")
        Named(kind='dpr', folders=('context', 'question'))
        >>> parsed("states")
        Named(kind='states', folders=())
    """
    kind, _, rest = name.partition(":")
    folders = tuple(rest.split(",") if kind == DUAL else [rest])
    if name == STATES:
        return Named(STATES)
    if kind in ENCODERS.others:  # which reads what it likes behind the colon
        return Named(kind, tuple(folder for folder in folders if folder))
    if kind not in (*POOLED, SENTENCE) or not all(folders) or len(folders) != (2 if kind == DUAL else 1):
        raise DriftError(f"`QuestionStudy.encoder` was {name!r}; give one of {', '.join(NAMES)}.")
    return Named(kind, folders)


def encoder_named(name: str, language_model: LanguageModel) -> Encoder:
    """Return the encoder of a name, on the language model's device.

    - `states`: mean of the language model's own last states.
    - `contriever:FOLDER`: mean over the tokens. Source: Izacard et al. 2022.
    - `mean:FOLDER`: the same at length 1, as all-MiniLM and other sentence-transformers pool; their prompts, where
      they have any, and their limits of length are left out.
    - `bge:FOLDER`: the first token's state at length 1, without the instruction that some of them put before a
      question. Source: Xiao et al. 2023.
    - `dpr:FOLDER,QUESTION_FOLDER`: one encoder for each side, pooled by themselves. Source: Karpukhin et al. 2020.
    - `sentence:FOLDER`: what the package sentence-transformers makes of the folder.

    Raises:
        DriftError: for a name that `parsed` refuses, or an encoder that cannot be loaded.

    Example:
        >>> from driftlm import load
        >>> encoder_named("states", load()).questions(["It rained."]).shape
        torch.Size([1, 256])
    """
    kind, folders = parsed(name)
    for folder in folders if kind in ENCODERS.own else ():
        if (Path(folder).is_absolute() or folder.startswith(".")) and not Path(folder).exists():
            raise DriftError(
                f"`QuestionStudy.encoder` {name}: there is no folder {folder}; give one in HuggingFace format."
            )
    encoder: Encoder = ENCODERS.load(kind)(language_model, kind, folders)
    return encoder


def states(language_model: LanguageModel, kind: str, folders: tuple[str, ...]) -> StatesOfModel:
    """Return the language model itself as an encoder."""
    return StatesOfModel(language_model)


def sentence(language_model: LanguageModel, kind: str, folders: tuple[str, ...]) -> SentenceEncoder:
    """Return what the package sentence-transformers makes of a folder."""
    return SentenceEncoder(folders[0], str(language_model.device))


def pooled(language_model: LanguageModel, kind: str, folders: tuple[str, ...]) -> PooledEncoder:
    """Return encoders in HuggingFace format, pooled as the kind says."""
    pooling, normalize = POOLED[kind]
    return PooledEncoder(*folders, pooling=pooling, normalize=normalize, device=str(language_model.device))
