"""A bank as a memory of what was read: the same scores as the model called by hand, answers, and what it refuses."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from driftlm import DriftError, Windows
from driftlm.memories.bank.networks import load_networks
from driftlm.memories.bank.source import BankSource
from driftlm.memories.composed import BankMemory
from driftlm.streams.facts import facts
from tests.support.at_once import asked as asked_at_once
from tests.support.build import TOKENIZER, language_model, numbers, read, reads_numbers, spelled
from tests.support.families import BOS, CACHED_FAMILIES, FAMILIES, random_ids

pytestmark = pytest.mark.long

KNOWN = [spelled(random_ids(20, seed)[1:], f"known {seed}") for seed in (1, 2)]
TEXT = random_ids(17, 3)[1:]
T = 2  # positions of the modulation


def memory_of(family: str, windows: Windows) -> BankMemory:
    memory = BankMemory.examples()["prefix"](language_model(family), windows, None, False)  # type: ignore[arg-type]
    assert isinstance(memory, BankMemory)
    return reads_numbers(memory)


def filled(family: str, windows: Windows) -> BankMemory:
    memory = memory_of(family, windows)
    read(memory, KNOWN)
    return memory


def source_of(memory: BankMemory) -> BankSource:
    (source,) = memory.sources
    assert isinstance(source, BankSource)
    return source


def prefix_of(memory: BankMemory, tokens: Sequence[int]) -> DynamicCache:
    """The modulation for a question of these tokens, from the bank as it is."""
    bank, networks = source_of(memory).bank, source_of(memory).networks
    prefix, _ = asked_at_once(networks, [TOKENIZER.decode(tokens)], bank.vectors, bank.keys, bank.timestamps)
    return DynamicCache(list(prefix))


def nats_by_hand(
    memory: BankMemory, fed: Sequence[int], targets: Sequence[int], first: int, cache: DynamicCache
) -> Tensor:
    """Nats of targets, the last of which follow what is fed at positions `first` and on."""
    positions = torch.arange(first, first + len(fed))[None]
    with torch.no_grad():
        logits = memory.language_model.model(torch.tensor([fed]), position_ids=positions, past_key_values=cache).logits[
            0
        ]
    chosen = logits[-len(targets) :].log_softmax(-1)
    return -chosen[torch.arange(len(targets)), torch.tensor(targets)]


@pytest.mark.parametrize("family", FAMILIES)
def test_overlapping_windows_are_read_behind_what_the_window_before_asked_for(family: str) -> None:
    memory = filled(family, Windows("overlapping", 12, 4, sink=0))
    ids, expected = [BOS, *TEXT], []
    for first in range(1, len(ids), 4):
        new = ids[first : first + 4]
        fed = ids[max(0, first - 1 + 4 - 12) : first - 1 + len(new)]
        before = ids[first - 4 : first]
        cache, start = (prefix_of(memory, before), T) if first > 1 else (DynamicCache(), 0)
        expected.append(nats_by_hand(memory, fed, new, start, cache))
    assert (read(memory, [spelled(TEXT)]) - torch.cat(expected)).abs().max() <= 1e-5


@pytest.mark.parametrize("family", CACHED_FAMILIES)
def test_cached_windows_keep_the_text_and_change_the_modulation(family: str) -> None:
    memory = filled(family, Windows("cached", 24, 4))  # nothing is trimmed, so that positions stay
    ids, expected, kept = [BOS, *TEXT], [], []
    for first in range(1, len(ids), 4):
        new, fed = ids[first : first + 4], ids[first - 1 : first - 1 + 4][: len(ids) - first]
        cache = prefix_of(memory, ids[first - 4 : first]) if first > 1 else DynamicCache()
        before = cache.get_seq_length()
        for number, (keys, values) in enumerate(kept):
            cache.update(keys, values, number)
        expected.append(nats_by_hand(memory, fed, new, first - 1 + T, cache))
        kept = [(one.keys[..., before:, :], one.values[..., before:, :]) for one in cache.layers]
    assert (read(memory, [spelled(TEXT)]) - torch.cat(expected)).abs().max() <= 1e-5


@pytest.mark.parametrize("family", CACHED_FAMILIES)
def test_the_text_stays_near_what_stands_before_it(family: str) -> None:
    """In cached windows that keep C - S = 4 positions a score knows the latest text alone, wherever it stands."""
    memory, ending = filled(family, Windows("cached", 8, 4)), random_ids(25, 5)[1:]
    far, farther = ([*random_ids(length, length)[1:], *ending] for length in (101, 301))
    # Older text reaches a score through the cached values, a window further back in every layer; there are few.
    memory.keeps = False
    one, other = (read(memory, [spelled(text)])[-4:] for text in (far, farther))
    assert (one - other).abs().max() <= 1e-4


def test_a_document_read_again_takes_the_place_of_its_first_reading() -> None:
    once, twice = (memory_of("llama", Windows("overlapping", 12, 4)) for _ in range(2))
    read(twice, [spelled(TEXT, KNOWN[0].id), KNOWN[1], KNOWN[0]])
    read(once, [KNOWN[1], KNOWN[0]])
    assert source_of(twice).documents == [KNOWN[1].id, KNOWN[0].id]
    assert torch.equal(read(once, [spelled(TEXT)]), read(twice, [spelled(TEXT)]))


def test_a_bank_that_is_not_to_grow_stays_as_it_is() -> None:
    memory = filled("llama", Windows("overlapping", 12, 4))
    keeping = filled("llama", Windows("overlapping", 12, 4))
    keeping.keeps = False
    first = read(keeping, [spelled(TEXT)])
    assert source_of(keeping).documents == [one.id for one in KNOWN]
    assert torch.equal(read(keeping, [spelled(TEXT)]), first) and torch.equal(read(memory, [spelled(TEXT)]), first)
    memory.reset()
    assert not torch.equal(read(memory, [spelled(TEXT)]), first)


def test_what_cannot_be_forgotten_or_restored_is_refused() -> None:
    memory = filled("llama", Windows("overlapping", 12, 4))
    with pytest.raises(DriftError, match="no document 'other' was read; give the id"):
        memory.forget("other")
    state = memory.state()
    other = BankMemory.examples()["short parts"](memory.language_model, memory.windows, None, False)  # type: ignore[arg-type]
    source_of(other).networks.readout.weight.data += 1  # type: ignore[attr-defined]
    with pytest.raises(DriftError, match="other bank networks"):
        other.restore(state)
    next(iter_windows := iter(windows_of(memory)))
    memory.learn(next(iter_windows))
    with pytest.raises(DriftError, match="while a document is read"):
        memory.forget(KNOWN[0].id)


def windows_of(memory: BankMemory) -> list:  # type: ignore[type-arg]
    from driftlm.streams.windows import split

    return list(split("d", *numbers(spelled(TEXT).text), memory.windows))


def test_windows_and_modulation_have_to_fit_the_positions() -> None:
    memory_of("gpt2", Windows("overlapping", 510, 10, sink=0))
    with pytest.raises(DriftError, match="512 positions"):
        memory_of("gpt2", Windows("overlapping", 511, 10, sink=0))


def test_it_answers_with_the_newest_and_with_the_older_once_that_is_forgotten() -> None:
    stream = facts(30, seed=2)
    memory = BankMemory(load_networks(), Windows(context=128, stride=64))
    assert memory.answer(stream.questions[0].text).documents == ()
    read(memory, stream.documents)
    changed = [question for question in stream.questions if question.superseded]
    right = [memory.answer(question.text).text == question.answers[0] for question in stream.questions]
    assert sum(right) >= 0.9 * len(right)
    for question in changed:
        answer = memory.answer(question.text)
        assert answer.text == question.answers[0] and answer.documents[0][0] == question.document
        memory.forget(question.document)
        assert memory.answer(question.text).text == question.superseded
    assert len(changed) >= 2
