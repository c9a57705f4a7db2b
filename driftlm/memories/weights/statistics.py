"""Gradient statistics for the RMS rule: gathered on a text, kept in a file of their own."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter

from driftlm.core.errors import DriftError
from driftlm.models.cache import KeyValues, RotaryCache
from driftlm.models.catalogue import BUNDLED
from driftlm.models.loading import LanguageModel
from driftlm.models.scoring import Scorer
from driftlm.models.trainable import choose
from driftlm.streams.documents import Document
from driftlm.streams.windows import Windows, split

EIGHT_BIT = torch.float8_e4m3fn


@dataclass(frozen=True)
class Statistics:
    """RMS_i = √mean_b g_b,i² over windows b, one gradient of the window's mean loss (nats) each, at fixed parameters.

    Attributes:
        rms: parameter name -> RMS, float32, the parameter's shape.
        facts: where they come from: windows, tokens, context, stride, model.
    """

    rms: dict[str, Tensor]
    facts: dict[str, Any]

    @property
    def normalizer(self) -> float:
        """The unweighted mean over tensors of each tensor's mean RMS."""
        return sum(tensor.double().mean().item() for tensor in self.rms.values()) / len(self.rms)

    def of(self, parameters: dict[str, Parameter]) -> tuple[Tensor, ...]:
        """RMS of the given parameters, on their device.

        Raises:
            DriftError: for a parameter without statistics: a LoRA's first factor has no gradient at the prior.
        """
        for name, parameter in parameters.items():
            if name not in self.rms or self.rms[name].shape != parameter.shape:
                raise DriftError(
                    f"the gradient statistics have nothing of the right shape for {name}; give statistics made for "
                    f"this model, and `Learning.learn` all or norms (a new LoRA has no gradient statistics at the "
                    f"prior)."
                )
        return tuple(self.rms[name].to(parameter.device) for name, parameter in parameters.items())

    def save(self, path: str | Path, eight_bit: bool = False) -> None:
        """Write a safetensors file; `eight_bit` keeps 8-bit floats, one float32 scale a row (relative error 6 %)."""
        path = Path(path)
        tensors = dict(self.rms)
        if eight_bit:
            tensors = {}
            for name, rms in self.rms.items():
                scale = rms.amax(dim=-1, keepdim=True).clamp(min=1e-30) / torch.finfo(EIGHT_BIT).max
                tensors[name], tensors[f"scale/{name}"] = (rms / scale).to(EIGHT_BIT), scale
        partial = path.with_name(path.name + ".partial")
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, {"driftlm": json.dumps(self.facts)})
        partial.replace(path)

    @staticmethod
    def load(path: str | Path) -> "Statistics":
        """Read what `save` wrote.

        Raises:
            DriftError: when the file is missing or holds no statistics.
        """
        try:
            with safe_open(str(path), "pt") as file:
                facts = json.loads((file.metadata() or {})["driftlm"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except FileNotFoundError as error:
            raise DriftError(
                f"the statistics file {path} does not exist; make it with `driftlm statistics TEXT --out FILE`."
            ) from error
        except Exception as error:
            raise DriftError(
                f"{path} is not a file of gradient statistics; make one with `driftlm statistics TEXT --out FILE`."
            ) from error
        names = [name for name in tensors if not name.startswith("scale/")]
        rms = {name: tensors[name].float() * tensors.get(f"scale/{name}", torch.ones(())) for name in names}
        return Statistics(rms, facts)

    @staticmethod
    def for_model(language_model: LanguageModel, path: str) -> "Statistics":
        """The file that was named, or the one that the bundled model has beside it."""
        if path:
            return Statistics.load(path)
        beside = Path(language_model.name) / "statistics.safetensors"
        if beside.parent == BUNDLED and beside.exists():
            return Statistics.load(beside)
        raise DriftError(
            "`Learning.rule` rms needs gradient statistics of this model; make them with "
            "`driftlm statistics TEXT --model DIR --out FILE` and give `Learning.statistics` FILE."
        )


def gather(
    language_model: LanguageModel, documents: Iterable[Document], windows: Windows, limit: int | None = None
) -> Statistics:
    """Read a text with fixed parameters and gather RMS over its windows.

    Args:
        language_model: its weights are left as they are.
        documents: a text like the one the model was trained on.
        windows: the grid; RMS depends on the number of new tokens in a window.
        limit: new tokens to read at most.
    """
    scorer = Scorer(language_model)
    rotary = RotaryCache(language_model) if windows.window == "cached" else None
    parameters = choose(language_model, "all").parameters
    squares = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    count = tokens = 0
    for document in documents:
        ids, byte_ends = language_model.encode(document.text)
        cache = KeyValues() if rotary else None
        for window in split(document.id, ids[: None if limit is None else limit - tokens + 1], byte_ends, windows):
            before = rotary.before(cache, window) if rotary and cache else None
            forward = scorer.forward(window, before)
            if forward.cache is not None:
                cache = forward.cache.trimmed(windows.kept)
            forward.nats.mean().backward()
            for name, parameter in parameters.items():
                if parameter.grad is not None:
                    squares[name].addcmul_(parameter.grad, parameter.grad)
                    parameter.grad = None
            count, tokens = count + 1, tokens + window.new
        if limit is not None and tokens >= limit:
            break
    if count == 0:
        raise DriftError("the text has no window to gather statistics from; give a text with at least one token.")
    language_model.model.requires_grad_(False)
    facts = {"windows": count, "tokens": tokens, "model": language_model.fingerprint, **vars(windows)}
    return Statistics({name: (total / count).sqrt().float() for name, total in squares.items()}, facts)
