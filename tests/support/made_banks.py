"""Tiny networks with random weights, and streams of a few documents, for tests of what is asked of a bank."""

import torch

from driftlm.memories.bank.modulations import Modulations
from driftlm.memories.bank.networks import BankNetworks
from driftlm.memories.bank.settings import NetworksSettings
from driftlm.streams.documents import Document
from driftlm.streams.questions import Question, QuestionStream
from tests.support.build import language_model

SMALL = NetworksSettings(
    vectors=2,
    encoder_width=16,
    encoder_layers=1,
    encoder_heads=2,
    blocks=2,
    heads=2,
    head_width=8,
    key_width=8,
    longest=16,
)
PLACES = ("Paris", "Rome", "Oslo", "Bern", "Lima", "Cairo", "Delhi", "Quito", "Seoul", "Accra", "Riga", "Doha")


def networks(family: str = "llama", settings: NetworksSettings = SMALL) -> BankNetworks:
    """Far from their start: questioner and amortizer differ, biases are not zero."""
    torch.manual_seed(0)
    model = language_model(family)
    model.model.requires_grad_(False)
    made = BankNetworks(model, settings).eval().requires_grad_(False)
    for weight in made.parameters():
        weight.add_(0.1 * torch.randn(weight.shape))
    return made


def stream(documents: int = len(PLACES)) -> QuestionStream:
    """Of different lengths, so that some have more parts than others; the last question's answer has changed."""
    texts = [f"It rained in {place}. " * (1 + number % 3) for number, place in enumerate(PLACES[:documents])]
    days = [f"2024-01-{1 + number:02}" if number % 4 else None for number in range(documents)]
    told = tuple(Document(place, text, day) for place, text, day in zip(PLACES, texts, days, strict=False))
    asked = [
        Question(f"Where did it rain, {n}?", (f"in {p}", p), p, id=str(n)) for n, p in enumerate(PLACES[:documents])
    ]
    changed = Question("Where does it rain now?", ("Paris",), told[-1].id, id="changed", superseded="Rome")
    return QuestionStream(told, (*asked, changed))


def tensors(modulated: object) -> list[torch.Tensor]:
    """Every key and value of a prefix."""
    return [tensor for layer in modulated for tensor in layer]  # type: ignore[attr-defined]


def unknown_times(bank: Modulations) -> Modulations:
    """The same bank without times, so that no document supersedes another."""
    nothing = torch.full_like(bank.timestamps, torch.nan)
    return Modulations(bank.vectors, bank.keys, nothing, bank.owner, bank.ids)
