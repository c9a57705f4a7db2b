"""Learned weights as folders that others read: PEFT for LoRA and DoRA, HuggingFace otherwise; in and out."""

import json
import warnings
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from driftlm import __version__
from driftlm.core.errors import DriftError
from driftlm.memories.weights.learning import Learn, Learning
from driftlm.memories.weights.parametrisations import chosen_by
from driftlm.models.catalogue import BUNDLED, SOURCE
from driftlm.models.fingerprint import earlier_fingerprint, fingerprint
from driftlm.models.loading import LanguageModel, load, no_progress_bar
from driftlm.models.lora import take_fast_path
from driftlm.models.machine import Machine
from driftlm.models.sources import Source, source_of
from driftlm.models.trainable import Trainable
from driftlm.runs.folder import latest_checkpoint, read_config
from driftlm.storage.files import appearing

BASE = "base"  # of an adapter, in its folder
PREFIXES = ("parameters/", "weights/parameters/")  # of what was learned, in the state of weights alone and with sources


@dataclass
class Start:
    """A model to read on with.

    Attributes:
        language_model: the model, with what was learned in it.
        trainable: the loaded adapter, where `--learn` goes on with it; else None.
    """

    language_model: LanguageModel
    trainable: Trainable | None = None


def save(
    language_model: LanguageModel, trainable: Trainable | None, folder: str | Path, *, base_beside: bool = True
) -> Path:
    """Write what was learned so that plain transformers and peft load it and give the same scores.

    Args:
        language_model: the adapted model.
        trainable: what was learned; with an adapter the folder is PEFT's, else a whole HuggingFace model (without
            trainable: the model under an adapter).
        folder: must not exist yet; it appears complete or not at all.
        base_beside: write the base of an adapter, too, where it came from a GGUF file, which peft does not load.

    Raises:
        DriftError: when the folder is there already.
    """
    folder = Path(folder)
    with appearing(folder) as partial:
        adapter, base = trainable and trainable.adapter, ""
        if adapter is not None and base_beside:
            base = base_for(language_model, folder, partial)
        write(language_model, adapter, partial, base)
    return folder


def base_for(language_model: LanguageModel, folder: Path, partial: Path) -> str:
    """Return the base that an adapter in a folder is to name; one that came from a GGUF file is written in the folder.

    Args:
        language_model: the model under the adapter.
        folder: where the adapter will be.
        partial: where it is written.
    """
    if not language_model.from_file:
        return language_model.place
    cast = language_model.model.dtype != torch.float32  # the file's own weights are the base
    write(load(language_model.name) if cast else language_model, None, partial / BASE)
    made_of = {"file": Path(language_model.name).name, "sha256": language_model.sha256}
    (partial / BASE / SOURCE).write_text(json.dumps(made_of, indent=1) + "\n", encoding="utf-8")
    return str(folder.resolve() / BASE)


def write(language_model: LanguageModel, adapter: Any, folder: Path, base: str = "") -> None:
    """Write a model of peft as its adapter, which says what it belongs to, or without one the whole model; a tokenizer.

    Args:
        language_model: the model under the adapter, too.
        adapter: the model of peft, or None.
        folder: made where there is none.
        base: place of the model that the adapter is to be loaded on, where it is not the one it was made on.
    """
    with no_progress_bar(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if adapter is not None:
            adapter.peft_config["default"].base_model_name_or_path = base or language_model.place
            adapter.save_pretrained(folder)
            (folder / "README.md").write_text(card(language_model, adapter), encoding="utf-8")  # peft's is a form
        else:
            language_model.model.save_pretrained(folder, state_dict=plain_weights(language_model.model))
        language_model.tokenizer.save_pretrained(folder)


def card(language_model: LanguageModel, adapter: Any) -> str:
    """Return what stands in the README.md of an adapter's folder: whose it is, what it is, how it is loaded."""
    config = adapter.peft_config["default"]
    dtype = str(next(language_model.model.parameters()).dtype)
    base = str(config.base_model_name_or_path)
    named, data = f"`{base}`", f"base_model: {base}\n"
    if Path(base) == BUNDLED.resolve():
        named, data = "the model that comes with driftlm", ""
    elif Path(base).is_absolute():
        named, data = f"`{Path(base).name}`, a folder", ""
    kind = config.peft_type.value
    if kind == "LORA":
        maps = ", ".join(sorted({name.rpartition(".")[-1] for name in config.target_modules}))
        kind = f"{'DoRA' if config.use_dora else 'LoRA'} of rank {config.r}, on the linear maps {maps}"
    return f"""---
library_name: peft
{data}---

# An adapter learned from a stream of text

- base: {named}; `adapter_config.json` says where it was
- what was learned: {kind}
- made with: driftlm {__version__}, peft {version("peft")}

```python
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

folder = "."  # this one
model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype={dtype})
tokenizer = AutoTokenizer.from_pretrained(folder)
```

It was learned in `{dtype}`. Without `dtype` the base is loaded as its `config.json` says, and other scores follow.
"""


def plain_weights(model: Any) -> dict[str, Tensor]:
    """Return a model's weights under their own names, also while peft's layers are around them."""
    return {
        name.replace(".base_layer.", "."): tensor for name, tensor in model.state_dict().items() if ".lora_" not in name
    }


def start_from(source: str | Path, learning: Learning, machine: Machine = Machine()) -> Start:  # noqa: B008 - frozen
    """Load a learned state: a run's, a PEFT folder's or a HuggingFace folder's.

    An adapter is continued where `learning.learn` is of its kind (its own rank and modules stand), else it is merged
    into the weights.

    Args:
        source: the run or folder.
        learning: what the new reading learns.
        machine: what it runs on; its model is the base of a PEFT folder, where that is not the one the folder names.

    Raises:
        DriftError: when the folder holds none of these.
    """
    source = Path(source)
    if (source / "adapter_config.json").exists():
        return from_adapter(source, learning, machine)
    if (source / "windows.jsonl").exists():
        return from_run(source, learning, machine)
    if whole(source):
        return Start(replace(machine, model=str(source)).load())
    if (source / "home.json").exists():
        raise DriftError(
            f"`Stream.start_from` {source} is a home; write what it learned with `driftlm export {source} --to LEARNED "
            f"--as huggingface` (or peft, to go on with its adapter), and give LEARNED."
        )
    raise DriftError(
        f"`Stream.start_from` {source} is neither a run nor a PEFT or HuggingFace folder; give one of these."
    )


def kind_of(source: Path) -> Learn:
    """Tell how a run or folder learned: `lora`, `dora`, `all`, `norms` or `none`; a whole model is `all`."""
    if (source / "adapter_config.json").exists():
        return "dora" if adapter_config(source).use_dora else "lora"
    if whole(source):
        return "all"
    config = read_config(source)
    frozen = config.get("memory", {}).get("memory", "weights") != "weights"
    return "none" if frozen else Learning(**config["learning"]).learn


def whole(source: Path) -> bool:
    """Tell whether a folder is a HuggingFace model, neither a run nor an adapter."""
    others = ("adapter_config.json", "windows.jsonl")
    return (source / "config.json").exists() and not any((source / name).exists() for name in others)


def adapter_config(source: Path) -> Any:
    """Return the configuration of a LoRA or DoRA that peft wrote."""
    from peft import PeftConfig, PeftType

    try:
        config: Any = PeftConfig.from_pretrained(str(source))
    except (OSError, ValueError, TypeError) as error:
        raise DriftError(
            f"the adapter_config.json in {source} cannot be read; give a folder that peft wrote."
        ) from error
    if config.peft_type != PeftType.LORA:
        raise DriftError(
            f"the adapter in {source} is {config.peft_type.value}; give a LoRA or DoRA, or merged weights."
        )
    return config


def from_adapter(source: Path, learning: Learning, machine: Machine) -> Start:
    """Return a PEFT folder on its base."""
    from peft import PeftModel

    config, model = adapter_config(source), machine.model
    base = config.base_model_name_or_path
    if base and not Path(base).exists() and (source / BASE).is_dir():
        base = str(source / BASE)  # the folder was moved
    if not (model or base):
        raise DriftError(
            f"the adapter in {source} does not name the model it belongs to; give it with `Machine.model`."
        )
    if model and base and Path(base).is_dir() and not same(source_of(base), source_of(model)):
        raise DriftError(
            f"the adapter in {source} belongs to the model {base}, not to {model}; leave `Machine.model` out."
        )
    language_model = replace(machine, model=model or base).load()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # peft's, about a quantized base
            adapter = PeftModel.from_pretrained(language_model.model, str(source), is_trainable=True).eval()
    except (RuntimeError, ValueError, OSError, SafetensorError) as error:
        raise DriftError(
            f"the adapter in {source} does not fit {language_model.name!r}; give its base with `Machine.model`."
        ) from error
    take_fast_path(language_model.model)
    parameters = {name: p for name, p in language_model.model.named_parameters() if p.requires_grad}
    kind = "dora" if config.use_dora else "lora"
    return continued_or_merged(language_model, Trainable(parameters, adapter), kind, learning)


def same(one: Source, other: Source) -> bool:
    """Tell whether two places are one, or were made of the same GGUF file."""
    made_of = one.sha256
    return Path(one.name).resolve() == Path(other.name).resolve() or bool(made_of and made_of == other.sha256)


def from_run(source: Path, learning: Learning, machine: Machine) -> Start:
    """Return the state a run's latest checkpoint holds."""
    config, checkpoint = read_config(source), latest_checkpoint(source)
    if checkpoint is None:
        raise DriftError(f"the run {source} stopped before its first checkpoint and learned nothing; resume it first.")
    then, held = Learning(**config["learning"]), checkpoint.memory.tensors.items()
    prefix = next((one for one in PREFIXES if any(key.startswith(one) for key, _ in held)), None)
    if prefix is None:  # its memory left the weights as they were
        return reopen(config, learning, machine)
    start = reopen(config, then, machine)
    trainable = start.trainable or chosen_by(then, start.language_model)
    trainable.start_from({key.removeprefix(prefix): value for key, value in held if key.startswith(prefix)})
    return continued_or_merged(start.language_model, trainable, then.learn, learning)


def reopen(config: dict[str, Any], learning: Learning, machine: Machine) -> Start:
    """Return the model that a run began with."""
    machine = replace(machine, model=config["model"]["name"])
    return start_from(config["start"], learning, machine) if config["start"] else Start(machine.load())


def continued_or_merged(language_model: LanguageModel, trainable: Trainable, kind: str, learning: Learning) -> Start:
    """Keep an adapter of the kind that is learned next; merge any other, and let no parameter ask for a gradient."""
    model, kept = language_model.model, None
    if trainable.adapter is None:
        model.requires_grad_(False)
    elif kind == learning.learn:
        kept = trainable
    elif getattr(model, "is_quantized", False):
        raise DriftError(
            f"the adapter of {language_model.name!r} would be rounded to the bits of the weights it is merged into; "
            f"give `Machine.bits` 0, or `Learning.learn` {kind} to go on with it."
        )
    else:
        model = trainable.adapter.merge_and_unload().requires_grad_(False).eval()
    # what was learned is part of the model that a new reading begins with
    known, earlier = (one(model, language_model.tokenizer) for one in (fingerprint, earlier_fingerprint))
    return Start(replace(language_model, model=model, fingerprint=known, earlier_fingerprint=earlier), kept)
