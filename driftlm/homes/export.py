"""The verb `export`: what a run or a home learned, as a folder that transformers and peft load, its error stated."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from driftlm.core.errors import DriftError
from driftlm.homes.opening import opened
from driftlm.memories.loop import read_stream
from driftlm.memories.weights.dynamic import WeightMemory
from driftlm.memories.weights.learning import FROZEN, Learning
from driftlm.models.factored import LowRankDelta, lora_of, low_rank_delta
from driftlm.models.loading import LanguageModel, fitted
from driftlm.models.machine import Machine
from driftlm.runs import formats
from driftlm.storage.files import appearing, refuse_existing
from driftlm.streams.documents import Document, read_documents
from driftlm.streams.windows import Windows

Kind = Literal["peft", "huggingface", "low-rank"]
STATED = "low_rank.json"  # beside the adapter: how far it is from what was learned


def export(
    source: Path,
    to: Path,
    kind: Kind,
    machine: Machine,
    windows: Windows,
    *,
    rank: int = 8,
    text: Sequence[str] = (),
    limit: int = 8000,
) -> dict[str, Any]:
    """Write a learned state as a folder; it is complete or not there.

    Args:
        source: a run, a home, or a PEFT or HuggingFace folder.
        to: the folder, which must not exist.
        kind: the adapter as it was learned (`peft`), a whole model (`huggingface`), or θ - θ₀ cut to a rank, as a
            LoRA (`low-rank`), θ₀ being the weights that the LoRA is to be loaded on.
        machine: where; its model is the base of a HuggingFace folder that is exported as `low-rank`.
        windows: how a text is cut.
        rank: of `low-rank`, at most; no change has a rank above the smaller side of its map.
        text: files that `low-rank` is measured on.
        limit: tokens of the text, at most.

    Returns:
        `{folder, as}`, and of `low-rank` what is stated beside the adapter as well: base, rank (written),
        relative_error, left_out_share, tensors [{name, relative_error, share, left_out}], and with a text tokens and
        {prior, exact, exported}_nats_per_token. Errors are Frobenius norms, relative to that of the change; shares
        are of its square.

    Raises:
        DriftError: for a folder that exists, a state without an adapter as `peft`, quantized weights otherwise.
    """
    refuse_existing(to)
    if (source / "home.json").exists():
        with TemporaryDirectory() as place:
            base = saved_from_home(source, Path(place) / "learned")
            machine = replace(machine, model=machine.model or base)
            return export(Path(place) / "learned", to, kind, machine, windows, rank=rank, text=text, limit=limit)
    if machine.bits and kind != "peft":
        raise DriftError(f"`Machine.bits` {machine.bits} would round the weights that are exported; leave it out.")
    held = formats.kind_of(source)
    if kind == "peft" and held not in ("lora", "dora"):
        raise DriftError(
            f"{source} holds no adapter (what learned was: {held}); give `export.kind` low-rank for a LoRA near it, or "
            f"`export.kind` huggingface."
        )
    learning = Learning(learn=held) if kind == "peft" else FROZEN
    learned = formats.start_from(source, learning, machine)
    if kind != "low-rank":
        formats.save(learned.language_model, learned.trainable, to)
        return {"folder": str(to), "as": kind}
    base = machine.model if formats.whole(source) else learned.language_model.name
    prior = replace(machine, model=base).load()
    delta = low_rank_delta(prior.model, learned.language_model.model, rank)
    documents = list(read_documents(tuple(text))) if text else []
    nats = [tokens_and_nats(model, windows, documents, limit) for model in (prior, learned.language_model) if documents]
    adapter = lora_of(prior.model, delta.factors)
    written = adapter.peft_config["default"].r
    facts: dict[str, Any] = {"rank": written, **stated(delta)}
    if documents:
        nats.append(tokens_and_nats(prior, windows, documents, limit))
        means = {f"{name}_nats_per_token": mean for name, (_, mean) in zip(("prior", "exact", "exported"), nats)}
        facts |= {"tokens": nats[0][0], **means}
    with appearing(to) as partial:
        facts = {"base": formats.base_for(prior, to, partial)} | facts
        formats.write(prior, adapter, partial, facts["base"])
        (partial / STATED).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return {"folder": str(to), "as": kind, **facts}


def saved_from_home(source: Path, to: Path) -> str:
    """Write the weights of a home's present state as a PEFT or HuggingFace folder; return its model.

    Raises:
        DriftError: when the home is open elsewhere, or has a mixture of weights.
    """
    with opened(source) as home:
        if len(home.memory.learners()) != 1:
            raise DriftError(
                f"{source} is a home of a {home.memory.kind}, which is no single model; export a home of one rate."
            )
        learner = home.memory.learned()
        formats.save(learner.language_model, learner.trainable, to, base_beside=False)
        return str(home.facts["model"]["name"])


def stated(delta: LowRankDelta) -> dict[str, Any]:
    """Return the errors of a low-rank delta, tensor by tensor and over all."""
    whole = sum(one.norm**2 for one in delta.changed)
    return {
        "relative_error": delta.error,
        "left_out_share": delta.left_out_share,
        "tensors": [
            {"name": one.name, "relative_error": one.error, "share": one.norm**2 / whole, "left_out": one.left_out}
            for one in delta.changed
        ],
    }


def tokens_and_nats(
    language_model: LanguageModel, windows: Windows, documents: Sequence[Document], limit: int
) -> tuple[int, float]:
    """Return tokens read and their mean nats, nothing learned."""
    memory = WeightMemory(language_model, fitted(language_model, windows), FROZEN)
    *_, last = read_stream(memory, documents, limit=limit)
    return last.totals.tokens, last.totals.nats_per_token
