"""The networks of a bank around one frozen language model: read, aggregate, modulate.

Letters: R questions, N entries, T vectors, D width, Q key width.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from driftlm.core.errors import DriftError
from driftlm.memories.bank.aggregate import Aggregator, AggregatorSettings
from driftlm.memories.bank.amortize import Encoder, StatesEncoder
from driftlm.memories.bank.encoder_decoder import T5Encoder, pretrained, rebuilt
from driftlm.memories.bank.low_rank import LowRankModulation
from driftlm.memories.bank.modulate import Modulation, PrefixModulation
from driftlm.memories.bank.settings import NetworksSettings
from driftlm.models.loading import LanguageModel, load

WEIGHTS, SETTINGS, ADAPTER = "networks.safetensors", "networks.json", "adapter"
BUNDLED = Path(__file__).parent / "bundled"


class BankNetworks(nn.Module):
    """Document -> modulation, question x bank -> modulation, modulation -> what changes the language model.

    Args:
        language_model: stays frozen, and is no part of `state_dict`.
        settings: shapes.
        kept: a folder of saved networks, whose T5 is rebuilt instead of looked for; weights are not loaded.
    """

    def __init__(
        self, language_model: LanguageModel, settings: NetworksSettings | None = None, *, kept: Path | None = None
    ) -> None:
        super().__init__()
        self.language_model = language_model
        self.settings = settings = settings or NetworksSettings()
        config = language_model.model.config.get_text_config()
        width = int(config.hidden_size)
        self.amortizer, self.questioner = (encoder(language_model, settings, kept) for _ in range(2))
        shape = (width, settings.vectors, settings.blocks, settings.heads, settings.head_width)
        self.aggregator = Aggregator(
            AggregatorSettings(*shape, key_width=settings.key_width, document_score=settings.document_score)
        )
        # Equal at first, so that a question and a document with the same names are alike before anything is learned.
        self.questioner.load_state_dict(self.amortizer.state_dict())
        if settings.document_score:
            self.aggregator.to_query_key.load_state_dict(self.aggregator.to_document_key.state_dict())
        self.readout = nn.LayerNorm(width)  # for training alone
        self.modulation: Modulation
        if settings.modulation == "prefix":
            self.modulation = PrefixModulation(config, settings.vectors)
        else:
            low_rank = (settings.vectors, settings.rank, settings.target_modules)
            self.modulation = LowRankModulation(language_model.model, *low_rank)
        self.to(language_model.device)

    @property
    def positions(self) -> int:
        """Return P, positions of the language model that a modulation takes before a prompt."""
        return self.settings.vectors if self.settings.modulation == "prefix" else 0

    @property
    def reader(self) -> Encoder:
        """Return what documents are read with."""
        return self.amortizer

    def amortize_rows(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Map token rows of document parts -> (N, T, D)."""
        vectors: Tensor = self.amortizer(rows)
        return vectors

    @torch.no_grad()
    def amortize(self, texts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield vectors (parts, T, D) and keys (parts, Q) of each document, all its parts kept."""
        parts = [self.amortizer.parts(text) for text in texts]
        rows = [row for part in parts for row in part]
        made: dict[int, Tensor] = {}
        # Padding is masked, so only time and memory depend on the batches.
        for chosen in self.amortizer.batches([len(row) for row in rows]):
            made |= zip(chosen, self.amortize_rows([rows[number] for number in chosen]).unbind(), strict=True)
        place = 0
        for part in parts:
            vectors = torch.stack([made[place + number] for number in range(len(part))])
            place += len(part)
            yield vectors, self.aggregator.document_key(vectors)

    def question_vectors(self, questions: Sequence[str]) -> Tensor:
        """Return the vectors of questions, (R, T, D). Of a question longer than a part its last tokens are read, where
        it asks.
        """
        vectors: Tensor = self.questioner([self.questioner.ending(text) for text in questions])
        return vectors

    def fingerprint(self) -> str:
        """Return the SHA-256 of all that modulations depend on: weights and settings, the language model, its merged
        adapter.
        """
        adapter = getattr(self.language_model.model, "merged_adapter", "")
        facts = [self.language_model.fingerprint, adapter, asdict(self.settings)]
        digest = hashlib.sha256(json.dumps(facts).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode() + value.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]

    def save(self, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write weights and settings into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.to(dtype).contiguous() for name, value in self.state_dict().items()}, folder / WEIGHTS)
        facts = {"settings": asdict(self.settings), "language_model": self.language_model.fingerprint}
        (folder / SETTINGS).write_text(json.dumps(facts, indent=1) + "\n")
        self.amortizer.keep(folder)


def encoder(language_model: LanguageModel, settings: NetworksSettings, kept: Path | None) -> Encoder:
    """Return a fresh encoder of the kind and shape that the settings name."""
    config = language_model.model.config.get_text_config()
    width, depth = int(config.hidden_size), int(config.num_hidden_layers)
    if settings.encoder == "t5":
        t5 = rebuilt(kept) if kept else pretrained(settings.t5)
        return T5Encoder(*t5, settings.vectors, width, settings.longest)
    return StatesEncoder(
        language_model,
        (0, *sorted({max(1, depth // 2), depth})),
        settings.vectors,
        settings.encoder_width,
        settings.encoder_layers,
        settings.encoder_heads,
        settings.longest,
    )


def load_networks(folder: str | Path | None = None, language_model: LanguageModel | None = None) -> BankNetworks:
    """Return the networks that `BankNetworks.save` left, around the model they were trained for; the bundled ones by
    default.

    Where the folder holds a PEFT `adapter` (a model tuned to answer questions), it is merged into the model first.

    Raises:
        DriftError: for a folder without networks, or made for another model.
    """
    if folder is None and not BUNDLED.exists():
        raise DriftError("no networks come with this installation; give a folder that `driftlm train bank` wrote.")
    folder, language_model = Path(folder or BUNDLED), language_model or load()
    facts, state = saved(folder)
    if not language_model.goes_by(facts["language_model"]):
        raise DriftError(
            f"a bank needs networks that were trained for its language model, and those in {folder} were trained for "
            f"another language model than {language_model.name!r}; give theirs with `Machine.model`, train some for "
            f"this one with `driftlm train bank` and name their folder, or read without a bank: weights, bm25 and "
            f"dense need no networks."
        )
    with_adapter(language_model, folder / ADAPTER)
    networks = BankNetworks(language_model, NetworksSettings(**facts["settings"]), kept=folder)
    networks.load_state_dict(state)
    return networks.eval().requires_grad_(False)


def bundled_for(language_model: LanguageModel) -> bool:
    """Tell whether the bundled networks are there and were trained for a model.

    Example:
        >>> bundled_for(load())
        True
    """
    return BUNDLED.exists() and saved(BUNDLED)[0]["language_model"] == language_model.fingerprint


def saved(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what `BankNetworks.save` left in a folder: its facts, with all settings, and the weights as float32."""
    if not (folder / SETTINGS).exists() or not (folder / WEIGHTS).exists():
        raise DriftError(f"the folder {folder} holds no bank networks; give one that `driftlm train bank` wrote.")
    weights = {name: value.float() for name, value in load_file(folder / WEIGHTS).items()}
    facts = json.loads((folder / SETTINGS).read_text())
    return facts | {"settings": asdict(NetworksSettings(**facts["settings"]))}, weights


def with_adapter(language_model: LanguageModel, adapter: Path) -> LanguageModel:
    """Merge a PEFT adapter, where there is one, into the model in memory; its fingerprint stays the model's own.

    Once: a model that was merged before is left alone if it was this adapter, and refused if it was another.
    """
    held = getattr(language_model.model, "merged_adapter", "")
    wanted = digest_of(adapter) if adapter.exists() else ""
    if held and held != wanted:
        raise DriftError("the model in memory holds another adapter already; load it anew.")
    if wanted and not held:
        if getattr(language_model.model, "is_quantized", False):
            raise DriftError(
                f"the adapter {adapter} would be rounded in a quantized model; load the model without `Machine.bits`."
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # peft asks by the old name
            merged = PeftModel.from_pretrained(language_model.model, str(adapter)).merge_and_unload()
        language_model.model = merged.requires_grad_(False).eval()
        language_model.model.merged_adapter = wanted
    return language_model


def digest_of(folder: Path) -> str:
    """Return the SHA-256 over the names and bytes of a folder's files."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()
