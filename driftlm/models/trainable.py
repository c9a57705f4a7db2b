"""Which parameters may change: all of them, LoRA or DoRA through peft, the norms, a range of layers."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from driftlm.core.errors import DriftError
from driftlm.models.loading import LanguageModel
from driftlm.models.lora import take_fast_path

GROUPS = {"attention": ("attn", "attention"), "mlp": ("mlp", "feed_forward", "ffn")}


@dataclass
class Trainable:
    """The parameters that may change, by name; no other asks for a gradient.

    Attributes:
        parameters: name -> parameter, a tied one once.
        adapter: the peft model around the language model for LoRA and DoRA, else None.
        fresh: whether switching the adapter off gives the prior (a new LoRA adds exactly zero).
    """

    parameters: dict[str, Parameter]
    adapter: Any = None
    fresh: bool = False

    def low_rank(self) -> dict[str, tuple[Any, str]]:
        """By the name of each second factor B that learns: peft's layer, and its adapter's name there."""
        model = None if self.adapter is None else self.adapter.get_base_model()
        layers = [(name, one) for name, one in (model.named_modules() if model else ()) if hasattr(one, "lora_B")]
        found = {f"{name}.lora_B.{key}.weight": (layer, key) for name, layer in layers for key in layer.lora_B}
        return {name: one for name, one in found.items() if name in self.parameters}

    def start_from(self, values: Mapping[str, Tensor]) -> None:
        """Let the parameters begin with given values.

        Raises:
            DriftError: when a parameter is missing there or has another shape.
        """
        for name, parameter in self.parameters.items():
            if name not in values or values[name].shape != parameter.shape:
                raise DriftError(
                    f"the learned state has no {name} of shape {tuple(parameter.shape)}; "
                    f"give the settings it was learned with (`Learning.learn`, `Learning.layers`, `Learning.rank`, "
                    f"`Learning.target_modules`)."
                )
            parameter.data = values[name].to(parameter.device, parameter.dtype, copy=True)
        self.fresh = False


def choose(
    language_model: LanguageModel,
    learn: str,
    *,
    layers: tuple[int, int] | None = None,
    rank: int = 8,
    targets: str = "all-linear",
    freeze_embeddings: bool = False,
    seed: int = 0,
) -> Trainable:
    """Let the chosen parameters ask for gradients; the rest do not, so no gradient work is done below the lowest.

    Args:
        language_model: changed in place: LoRA and DoRA add modules to it.
        learn: `all`, `lora`, `dora`, `norms` or `none`.
        layers: first and last transformer layer that may change, counted from 0, both included; None is every
            parameter (with a range, embeddings, final norm and head stay as they are).
        rank: of LoRA and DoRA; at most the largest that a change of the chosen maps can have, min(I, O) of one.
        targets: `attention`, `mlp`, `all-linear` or module names separated by commas (LoRA and DoRA).
        freeze_embeddings: keep the input embeddings, and a head tied to them, as they are.
        seed: of the random half of a new LoRA.

    Raises:
        DriftError: when nothing is left to learn or a setting does not fit the model.
    """
    model = language_model.model
    model.requires_grad_(False)
    if learn == "none":
        return Trainable({})
    if layers is not None:
        refuse_range(layers, number_of_layers(model))
    if learn in ("lora", "dora"):
        return adapted(language_model, learn, layers, rank, targets, seed)
    refuse_quantized(model)
    norms = {f"{path}.{key}" for path, module in model.named_modules() if is_norm(module) for key, _ in own(module)}
    embeddings = {id(p) for p in model.get_input_embeddings().parameters()} if freeze_embeddings else set()
    parameters = {
        name: parameter.requires_grad_(True)
        for name, parameter in model.named_parameters()
        if (learn == "all" or name in norms) and in_range(name, layers) and id(parameter) not in embeddings
    }
    if not parameters:
        raise DriftError(
            f"`Learning.learn` {learn} with the other settings leaves no parameter to learn; allow more of them."
        )
    return Trainable(parameters)


def adapted(
    language_model: LanguageModel, learn: str, layers: tuple[int, int] | None, rank: int, targets: str, seed: int
) -> Trainable:
    """Return a new LoRA or DoRA in the model; its scale is 1 (alpha = rank), its dropout 0."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if rank < 1:
        raise DriftError(f"`Learning.rank` was {rank}; a LoRA needs a rank of at least 1.")
    model = language_model.model
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise DriftError(f"{language_model.name!r} already carries the adapter of another memory; load it once more.")
    names = target_modules(model, targets, layers)
    refuse_rank(rank, max(min(shape_of(model.get_submodule(name))) for name in names))
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    adapter = new_adapter(model, names, rank, use_dora=learn == "dora")
    torch.random.set_rng_state(state)
    take_fast_path(model)
    return Trainable({name: p for name, p in model.named_parameters() if p.requires_grad}, adapter, learn == "lora")


def new_adapter(model: Any, names: list[str], rank: int, *, use_dora: bool = False) -> Any:
    """Return the model of peft around `model`, which gets a LoRA or DoRA of scale 1 in the named linear maps."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=rank, lora_dropout=0.0, use_dora=use_dora, target_modules=names, task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():
        # What peft settles by itself (Conv1D stores its weight transposed) or calls in transformers is no one's worry.
        warnings.filterwarnings("ignore", message="fan_in_fan_out|.*is_gradient_checkpointing")
        return get_peft_model(model, config).eval()


def target_modules(model: Any, targets: str, layers: tuple[int, int] | None) -> list[str]:
    """Return the full names of the linear maps inside the blocks that `targets` and `layers` select."""
    head = model.get_output_embeddings()
    linear = [
        name
        for name, module in model.named_modules()
        if module is not head and type(module).__name__ in ("Linear", "Conv1D", "Linear4bit", "Linear8bitLt")
    ]
    if targets in GROUPS:
        chosen = [name for name in linear if any(part in name.lower() for part in GROUPS[targets])]
    elif targets == "all-linear":
        chosen = linear
    else:
        wanted = targets.split(",")
        for one in wanted:
            if not any(name == one or name.endswith(f".{one}") for name in linear):
                known = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear}))
                raise DriftError(
                    f"`Learning.target_modules` named {one!r}, which is no linear map of this model; give some of "
                    f"{known}, "
                    f"or attention, mlp or all-linear."
                )
        chosen = [name for name in linear if any(name == one or name.endswith(f".{one}") for one in wanted)]
    chosen = [name for name in chosen if in_range(name + ".", layers)]
    if not chosen:
        raise DriftError(
            f"`Learning.target_modules` {targets} finds no linear map in this model; give module names or all-linear."
        )
    return chosen


def shape_of(module: Any) -> tuple[int, int]:
    """Return the inputs and outputs of a linear map; GPT-2's Conv1D keeps its weight as (I, O)."""
    if hasattr(module, "in_features"):
        return int(module.in_features), int(module.out_features)
    inputs, outputs = module.weight.shape
    return int(inputs), int(outputs)


def number_of_layers(model: Any) -> int:
    """Return the number of transformer blocks."""
    return int(model.config.get_text_config().num_hidden_layers)


def refuse_rank(rank: int, largest: int) -> None:
    """Refuse a rank that no change of a map can have, but that costs time and memory all the same."""
    if rank > largest:
        raise DriftError(
            f"`Learning.rank` was {rank}, but no change of the linear maps chosen in this model has a rank above "
            f"{largest}; "
            f"give at most {largest}."
        )


def refuse_range(layers: tuple[int, int], count: int) -> None:
    """Refuse a range that is empty or outside the model."""
    first, last = layers
    if not 0 <= first <= last < count:
        raise DriftError(
            f"`Learning.layers` was {first}-{last}; this model has layers 0-{count - 1}, so give a-b with 0 <= a <= b "
            f"< {count}."
        )


def layer_of(name: str) -> int | None:
    """Return the number of the block a parameter or module belongs to, read from its dotted name."""
    found = re.search(r"\.(\d+)\.", f".{name}")
    return int(found.group(1)) if found else None


def in_range(name: str, layers: tuple[int, int] | None) -> bool:
    """Tell whether a parameter lies in the range; everything does when there is none."""
    if layers is None:
        return True
    layer = layer_of(name)
    return layer is not None and layers[0] <= layer <= layers[1]


def is_norm(module: nn.Module) -> bool:
    """Tell whether a module is a layer norm or an RMS norm, of whichever family."""
    return isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("Norm")


def own(module: nn.Module) -> list[tuple[str, Parameter]]:
    """Return the parameters of a module itself, not of its children."""
    return list(module.named_parameters(recurse=False))


def refuse_quantized(model: Any) -> None:
    """Refuse weights in 4 or 8 bit, which cannot take a gradient step."""
    if getattr(model, "is_quantized", False):
        raise DriftError("the weights of this model are quantized and cannot learn; give `Learning.learn` lora.")
