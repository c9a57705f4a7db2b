"""Answers that are written together are those that each would have alone, whoever the neighbours are."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch

import driftlm.homes.decoding
from driftlm import Document, DriftError, Learning, Windows, read_stream
from driftlm.homes.completing import Asked, Completion, Piece, Sampling
from driftlm.homes.decoding import SharedCache, write
from driftlm.homes.prompts import continued
from driftlm.memories.bank.networks import BankNetworks
from driftlm.memories.bank.source import BankSource
from driftlm.memories.base import Memory
from driftlm.memories.build import memory_for
from driftlm.memories.composed import TINY, ComposedMemory
from driftlm.memories.context.bm25 import BM25Index
from driftlm.memories.context.source import RetrievalSource
from driftlm.memories.weights.dynamic import WeightMemory
from driftlm.models import batching
from driftlm.models.loading import LanguageModel
from driftlm.models.modulated import modulating
from tests.support.build import language_model
from tests.support.families import FAMILIES, random_ids
from tests.support.homes import KINDS, model
from tests.support.running import words

pytestmark = pytest.mark.long

PROMPTS = (
    "the sea and the ship in that storm was red on 1999 again",
    "thing",
    "the red ship",
    "on the sea é was it so",
)
SOURCES = {
    "no memory": (),
    "bank": ("prefix",),
    "low rank": ("low rank",),
    "bm25": ("words",),
    "both": ("prefix", "words"),
}


@cache
def shared(family: str) -> tuple[LanguageModel, dict[str, BankNetworks]]:
    """A model and random networks around it, whose modulation changes what it says."""
    one = language_model(family)
    made = {}
    for name, settings in (("prefix", TINY), ("low rank", replace(TINY, modulation="lora", rank=2))):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made[name] = BankNetworks(one, settings)
            for parameter in made[name].modulation.parameters():
                torch.nn.init.normal_(parameter, std=0.3)
    return one, made


def home(family: str, kind: str, documents: int = 2, seed: int = 0) -> Memory:
    """A frozen memory that has read some documents."""
    one, networks = shared(family)
    weights = WeightMemory(one, Windows("overlapping", 32, 16), Learning("none"))
    if not SOURCES[kind]:
        return weights
    memory = ComposedMemory(
        weights,
        [
            RetrievalSource(BM25Index(), one, 1, 12) if name == "words" else BankSource(networks[name])
            for name in SOURCES[kind]
        ],
    )
    for number in range(documents):
        for _ in read_stream(memory, [Document(f"{number}", f"the red ship {words(8, seed * 100 + number)}")]):
            pass
    return memory


def made(asked: Sequence[Asked], batch: int = 8) -> list[Completion]:
    """What becomes of all, so many together."""
    found: dict[int, Completion | Exception] = {}
    for start in range(0, len(asked), batch):
        write(asked[start : start + batch], lambda place, one, start=start: found.__setitem__(start + place, one))  # type: ignore[misc]
    for one in found.values():
        if isinstance(one, Exception):
            raise one
    return [found[place] for place in range(len(asked))]  # type: ignore[misc]


def sizes_of(asked: Sequence[Asked]) -> list[int]:
    """Of the batches that they make."""
    sizes = list[int]()
    write(asked, lambda place, found: None, sizes.append)
    return sizes


def greedy(memory: Memory, prompt: str, tokens: int) -> str:
    """Token by token, each by a pass over all of the text so far."""
    one = memory.language_model
    composed = isinstance(memory, ComposedMemory)
    supply = memory.supplied([prompt]) if composed else None  # type: ignore[union-attr]
    ids = continued(one, prompt).ids(supply.texts[0] if supply else "")
    first = len(ids)
    with torch.no_grad():
        for _ in range(tokens):
            with modulating(one, supply.modulated if supply else None) as before:
                places = torch.arange(len(ids))[None] + before.get_seq_length()
                logits = one.model(
                    input_ids=torch.tensor([ids]), position_ids=places, past_key_values=before, use_cache=True
                ).logits[0, -1]
            chosen = int(logits.argmax())
            if chosen == 0:
                break
            ids.append(chosen)
    decode = one.tokenizer.decode
    return decode(ids, skip_special_tokens=True).removeprefix(decode(ids[:first], skip_special_tokens=True))


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("family", FAMILIES)
def test_together_is_what_full_passes_say_alone(family: str, kind: str) -> None:
    """Uneven prompts, rows that end at different times, two homes and one that is empty, log-probabilities to 1e-5."""
    homes = [home(family, kind), home(family, kind, seed=1), home(family, kind, documents=0)]
    most = [9, 14, 3, 12, 5, 7]
    asked = [
        Asked(
            homes[n % 3], continued(homes[0].language_model, PROMPTS[n % 4]), Sampling(most[n], 0, alternatives=2), 20
        )
        for n in range(6)
    ]
    together, alone = made(asked), made(asked, 1)
    for one, other, row, tokens in zip(together, alone, asked, most, strict=True):
        assert one.text == other.text == greedy(row.memory, row.prompt.question, tokens)
        assert replace(one, tokens=(), documents=()) == replace(other, tokens=(), documents=())
        for left, right in zip(one.tokens, other.tokens, strict=True):
            assert left.logprob == pytest.approx(right.logprob, abs=1e-5)
            assert left.likeliest[0][0] == right.likeliest[0][0]
        assert [id for id, _ in one.documents] == [id for id, _ in other.documents]
    assert len({one.text for one in together}) > 3


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_logits_of_rows_are_those_of_full_passes(family: str) -> None:
    """Also behind more tokens than a sliding window sees, and when the longest rows have left."""
    one = language_model(family)
    rows = [random_ids(length, seed)[:-3] for seed, length in enumerate((40, 12, 25, 3))]
    tokens = [random_ids(length, seed)[-3:] for seed, length in enumerate((40, 12, 25, 3))]
    caches = []
    for ids in rows:
        with modulating(one, None) as before:
            one.model(input_ids=torch.tensor([ids]), past_key_values=before, use_cache=True)
        caches.append(before)
    cached, left = SharedCache(one, caches), [0, 1, 2, 3]
    for step, kept in enumerate(([0, 1, 2, 3], [1, 2, 3], [1, 3])):
        cached.keep([left.index(row) for row in kept])
        left = kept
        logits = cached.logits([tokens[row][step : step + 1] for row in left])
        for row, found in zip(left, logits, strict=True):
            whole = one.model(torch.tensor([rows[row] + tokens[row][: step + 1]])).logits[0, -1]
            torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)
        assert cached.cache.get_seq_length() == max(len(rows[row]) for row in left) + step + 1


@pytest.mark.parametrize("family", ["gpt2", "gemma"])
def test_prompts_may_be_as_long_as_the_model_allows(family: str) -> None:
    """Beside short ones, whose padding must not count."""
    memory = home(family, "bank")
    prompts = [words(130), "the sea", "the " * 300, "thing"]
    asked = [Asked(memory, continued(memory.language_model, one), Sampling(None, 0), 6) for one in prompts]
    sizes = [len(one.prompt.ids("")) for one in asked]
    assert sizes[1] < driftlm.homes.decoding.SHORT < min(sizes[0], sizes[2]) < 512
    assert [one.text for one in made(asked)] == [greedy(memory, prompt, 6) for prompt in prompts]


def test_each_row_has_settings_of_its_own() -> None:
    """Seeds, stops, shares of the probability, most tokens; a seed draws the same whoever the neighbours are."""
    memory = home("llama", "bank")
    plain = made([Asked(memory, continued(memory.language_model, "the"), Sampling(30, 0), 30)])[0]
    samplings = [
        Sampling(20, 1.0, seed=5),
        Sampling(20, 0),
        Sampling(30, 0, stop=(plain.text[6:9],)),
        Sampling(7, 1.4, 0.8, seed=5),
        Sampling(None, 0.7, seed=9, strip=True),
        Sampling(20, 1.0, seed=5),
    ]
    asked = [Asked(memory, continued(memory.language_model, "the"), one, 11) for one in samplings]
    together, alone = made(asked), made(asked, 1)
    assert (
        [one.text for one in together] == [one.text for one in alone] == [one.text for one in made(asked[::-1])][::-1]
    )
    assert together[0].text == together[5].text != together[1].text
    assert together[2].reason == "stop" and plain.text[6:9] not in together[2].text
    assert together[2].completion_tokens < 20 and together[4].completion_tokens <= 11


def test_pieces_come_in_order_and_make_the_text() -> None:
    memory, said = home("gemma", "bank"), list[tuple[int, Piece]]()

    def listening(row: int) -> Callable[[Piece], None]:
        return lambda piece: said.append((row, piece))

    prompts = [continued(memory.language_model, prompt) for prompt in PROMPTS]
    found = made([Asked(memory, one, Sampling(12 - n, 0), 20, listening(n)) for n, one in enumerate(prompts)])
    for n, one in enumerate(found):
        assert "".join(piece.text for row, piece in said if row == n) == one.text
    order = [row for row, _ in said]
    assert order != sorted(order)  # all go on at once


def test_what_goes_wrong_in_a_row_ends_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, endings = home("llama", "bm25"), dict[int, Completion | Exception]()
    mixture = memory_for(KINDS["mixture"], memory.language_model, None)
    plain = made([Asked(memory, continued(memory.language_model, "the red"), Sampling(9, 0), 9)])[0]
    whole = driftlm.homes.decoding.SharedCache.logits

    def broken(self: SharedCache, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        logits = whole(self, tokens)
        if len(tokens) == 4:
            logits[2] = math.nan
        return logits

    def listener(piece: Piece) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(SharedCache, "logits", broken)
    nobody = iter([False, False, False, True])
    asked = [
        Asked(memory, continued(memory.language_model, "the red"), Sampling(9, 0), 9),
        Asked(memory, continued(memory.language_model, "the " * 700), Sampling(9, 0), 9),
        Asked(mixture, continued(memory.language_model, "the red"), Sampling(9, 0), 9),
        Asked(memory, continued(memory.language_model, "the red"), Sampling(9, 0), 9, listener),
        Asked(memory, continued(memory.language_model, "the red"), Sampling(9, 0), 9, gone=lambda: next(nobody)),
        Asked(memory, continued(memory.language_model, "in that storm"), Sampling(9, 0), 9),
        Asked(memory, continued(memory.language_model, "the red"), Sampling(9, 0), 9),
    ]
    sizes = list[int]()
    write(asked, endings.__setitem__, sizes.append)
    assert sizes == [5] and endings.keys() == set(range(7))
    assert endings[0] == plain and endings[6] == plain
    for place, message in ((1, "positions"), (2, "mixture"), (5, "no numbers")):
        assert isinstance(endings[place], DriftError) and message in str(endings[place])
    assert isinstance(endings[3], ZeroDivisionError)
    left = endings[4]
    assert isinstance(left, Completion) and left.completion_tokens == 3 and plain.text.startswith(left.text)


def test_rows_share_a_pass_only_where_the_weights_are_the_same() -> None:
    """Homes that learn have other ones; what changes the model itself has it for itself."""
    one = model()
    learned = [memory_for(KINDS["lora sgd"], one, None) for _ in range(2)]
    for _ in read_stream(learned[0], [Document("a", "the red ship was the red ship " * 6)]):
        pass
    frozen = [memory_for(KINDS["words"], one, None) for _ in range(2)]
    asked = [Asked(memory, continued(one, "the red"), Sampling(8, 0), 8) for memory in (*learned, *frozen, learned[0])]
    assert sizes_of(asked) == [2, 1, 2]
    together, alone = made(asked), made(asked, 1)
    assert [found.text for found in together] == [found.text for found in alone]
    assert together[0].text == together[4].text != together[1].text == together[2].text
    changed = home("llama", "low rank")
    asked = [Asked(changed, continued(changed.language_model, "the red"), Sampling(8, 0), 8) for _ in range(3)]
    assert sizes_of(asked) == [1, 1, 1]


def test_rows_share_a_pass_only_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = shared("llama")
    memory = home("llama", "no memory")
    asked = [Asked(memory, continued(one, prompt), Sampling(4, temperature=0), 4) for prompt in PROMPTS]
    found = {}
    for room, sizes in ((1 << 40, [4]), (1, [1, 1, 1, 1])):
        monkeypatch.setattr(batching, "available_bytes", lambda device, room=room: room)
        assert sizes_of(asked) == sizes
        found[room] = [completion.text for completion in made(asked)]
    assert found[1] == found[1 << 40]
