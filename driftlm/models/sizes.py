"""How large a model is, read off its files before its weights are loaded, and whether it fits."""

import json
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from driftlm.core.errors import DriftError
from driftlm.models.machine import available_bytes

INDEX = "model.safetensors.index.json"


class Stored(NamedTuple):
    """What safetensors files hold.

    Attributes:
        parameters: how many weights.
        dtypes: their types, as the files name them: `F32`, `BF16`, ...
    """

    parameters: int
    dtypes: frozenset[str]


def stored(folder: Path) -> Stored | None:
    """Return what the safetensors files of a folder in HuggingFace format hold; None where there are none to read.

    Example:
        >>> from driftlm.models.catalogue import BUNDLED
        >>> stored(BUNDLED)
        Stored(parameters=5180672, dtypes=frozenset({'BF16'}))
    """
    try:
        index = folder / INDEX
        files = set(json.loads(index.read_bytes())["weight_map"].values()) if index.exists() else {"model.safetensors"}
        parameters, dtypes = 0, set()
        for file in sorted(files):
            with safe_open(folder / file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - it is no dict
                    tensor, size = opened.get_slice(name), 1
                    for side in tensor.get_shape():
                        size *= side
                    parameters += size
                    dtypes.add(tensor.get_dtype())
    except (OSError, ValueError, KeyError, SafetensorError):
        return None  # what loads the weights says what is wrong with them
    return Stored(parameters, frozenset(dtypes))


def refuse_too_large(name: str, parameters: int, bytes_each: int, device: str, halved: bool = False) -> None:
    """Refuse a model whose weights alone take more memory than is free.

    Args:
        name: of the model.
        parameters: how many weights.
        bytes_each: what one takes while it is loaded, 4 in float32.
        device: where they go; they are loaded on the CPU first.
        halved: whether bfloat16 would take half.

    Raises:
        DriftError: with what it would take, and what there is.

    Example:
        >>> refuse_too_large("large", 10**15, 4, "cpu")
        Traceback (most recent call last):
        driftlm.core.errors.DriftError: the model 'large' has 1,000,000,000 million parameters, which take \
4,000,000.0 GB in float32, and ... GB are free on cpu; give a smaller model.
    """
    needed = parameters * bytes_each
    for place in dict.fromkeys(("cpu", device)):
        free = available_bytes(place)
        if needed > free:
            dtype = "float32" if bytes_each == 4 else "bfloat16"
            offer = "`Machine.dtype` bfloat16, or " if halved else ""
            raise DriftError(
                f"the model {name!r} has {parameters / 1e6:,.0f} million parameters, which take {needed / 1e9:,.1f} GB "
                f"in {dtype}, and {free / 1e9:,.1f} GB are free on {place}; give {offer}a smaller model."
            )
