"""Models in GGUF files, the format of llama.cpp: dequantized as they are loaded, through the package `gguf`."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from driftlm.core.errors import DriftError, first_sentence

MAGIC = b"GGUF"
WEIGHTS = ("*.safetensors", "*.bin")  # of a folder in HuggingFace format


def gguf_of(place: Path) -> Path | None:
    """Return the GGUF file that a place is, or that a folder without other weights holds; None where it is none.

    Raises:
        DriftError: for another kind of file, a damaged one, a folder that holds several, and where the package that
            reads them is missing.
    """
    found = [place] if place.is_file() else held_by(place)
    if not found:
        return None
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise DriftError(f"the folder {place} holds {len(found)} GGUF files ({names}); give one of them.")
    with found[0].open("rb") as file:
        magic = file.read(len(MAGIC))
    if magic != MAGIC:
        raise DriftError(f"the file {found[0]} is no GGUF file; give one, or a folder in HuggingFace format.")
    if find_spec("gguf") is None:
        raise DriftError(
            f'the model {found[0]} needs the package gguf; run pip install "driftlm[gguf]", or give a folder in '
            f"HuggingFace format."
        )
    return found[0]


def held_by(folder: Path) -> list[Path]:
    """Return the GGUF files of a folder that has no other weights."""
    if any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
        return []
    return sorted(folder.glob("*.gguf"))


@contextmanager
def parsed_once(file: Path) -> Iterator[None]:
    """Let transformers parse a file once, not four times, name its tensors once, not once a module, and draw no bar.

    Processor time of SmolLM2-135M: 6 s, not 22.

    Raises:
        DriftError: for a file that is damaged, or of an architecture that transformers does not read from GGUF.
    """
    import gguf
    import numpy as np
    from transformers import modeling_gguf_pytorch_utils as legacy

    class Reader(gguf.GGUFReader):
        """Slices of a plain array cost half of what those of a memory map do."""

        data: Any

        def _get(self, *arguments: Any, **named: Any) -> Any:
            self.data = self.data.view(np.ndarray)
            return super()._get(*arguments, **named)

    replaced = [
        (gguf, "GGUFReader", cache(Reader)),
        (gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map)),
        (legacy, "load_gguf_checkpoint", parsed(legacy.load_gguf_checkpoint)),
        (legacy, "tqdm", lambda items, **_: items),
    ]
    kept = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    try:
        for module, name, made in replaced:
            setattr(module, name, made)
        yield
    except DriftError:
        raise
    except Exception as error:  # a damaged file raises whatever its parser comes upon
        raise DriftError(
            f"the file {str(file)!r} cannot be loaded as a causal language model ({first_sentence(error)}); give a "
            f"whole file of one, or a folder in HuggingFace format."
        ) from error
    finally:
        for module, name, made in kept:
            setattr(module, name, made)


def parsed(load: Any) -> Any:
    """Return `load_gguf_checkpoint`, which gives the metadata that it gave before."""
    told = cache(load)

    def loaded(file: str, return_tensors: bool = False, **named: Any) -> Any:
        return load(file, return_tensors=True, **named) if return_tensors else deepcopy(told(file))

    return loaded


def parameters_in(file: Path) -> int:
    """Return how many weights a GGUF file holds."""
    import gguf

    return sum(int(tensor.n_elements) for tensor in gguf.GGUFReader(str(file)).tensors)


def plain(model: Any, dtype: Any) -> Any:
    """Return a model with the weights of another, cast, as if it had been loaded so.

    What transformers keeps of a file's quantization, and would not save, is left behind.
    """
    made = type(model).from_pretrained(None, config=model.config, state_dict=model.state_dict(), dtype=dtype)
    made.generation_config = model.generation_config
    return made.eval()
