"""Windows of several rows in one pass: each is scored as alone, whatever its length and that of its cache."""

from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from driftlm import Windows
from driftlm.models import head
from driftlm.models.cache import KeyValues
from driftlm.models.row_scoring import score_rows
from driftlm.models.scoring import Scorer
from driftlm.models.sink import behind_sinks
from driftlm.streams.windows import Window, split
from tests.support.build import language_model
from tests.support.families import CACHED_FAMILIES, FAMILIES, VOCABULARY, random_ids

LENGTHS, STRIDE, CONTEXT = [60, 5, 30, 19], 8, 20
BOTH = [(family, "overlapping") for family in FAMILIES] + [(family, "cached") for family in CACHED_FAMILIES]


def documents(window: Any, sink: int = 1) -> list[list[Window]]:
    grid = Windows(window, CONTEXT, STRIDE, sink)
    return [list(split(str(row), random_ids(length, row), range(length), grid)) for row, length in enumerate(LENGTHS)]


@pytest.mark.parametrize(("family", "window"), BOTH)
@pytest.mark.parametrize(("plain", "sink"), [(True, 3), (False, 0)], ids=["plain head, sink", "own head"])
@torch.no_grad()
def test_rows_at_different_places_are_scored_as_alone(family: str, window: str, plain: bool, sink: int) -> None:
    scorer = Scorer(language_model(family))
    scorer.plain_head = plain
    read, keep = documents(window, sink), CONTEXT - STRIDE
    # Rows begin at different rounds, so that a first window stands beside a full one and beside a last, short one.
    alone: list[KeyValues | None] = [KeyValues() if window == "cached" else None] * len(read)
    together = list(alone)
    for turn in range(8):
        rows = [row for row, windows in enumerate(read) if 0 <= turn - row < len(windows)]
        now = [read[row][turn - row] for row in rows]
        caches = [cache for row in rows if (cache := together[row]) is not None] if window == "cached" else None
        caches = None if caches is None else behind_sinks(scorer, now, caches)
        for row, one, scored in zip(rows, now, score_rows(scorer, now, None, caches, keep), strict=True):
            expected = scorer.forward(one, alone[row])
            torch.testing.assert_close(scored.nats, expected.nats, atol=1e-5, rtol=1e-5)
            assert torch.equal(scored.finite, expected.finite)
            if expected.cache is None or scored.cache is None:
                assert window == "overlapping" and scored.cache is None
                continue
            alone[row], together[row] = expected.cache.trimmed(keep), scored.cache
            held = expected.cache.trimmed(keep).tensors()
            assert held.keys() == scored.cache.tensors().keys()
            for name, tensor in scored.cache.tensors().items():
                torch.testing.assert_close(tensor, held[name], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_cache_that_keeps_nothing() -> None:
    scorer = Scorer(language_model("llama"))
    now = [next(iter(windows)) for windows in documents("cached")]
    after = [one.cache for one in score_rows(scorer, now, None, [KeyValues()] * len(now), 0)]
    assert after == [KeyValues()] * len(now)


def test_a_large_vocabulary_is_taken_in_chunks_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model("llama")
    model.model.requires_grad_(True)
    scorer, now = Scorer(model), [windows[0] for windows in documents("overlapping")]  # 8, 5, 8 and 8 new tokens
    weights = [model.model.lm_head.weight, model.model.get_input_embeddings().weight]

    def scored() -> tuple[Tensor, tuple[Tensor, ...]]:
        nats = torch.cat([one.nats for one in score_rows(scorer, now)])
        return nats, torch.autograd.grad(nats.sum(), weights)

    whole, gradients = scored()
    seen = []
    every = head.every_finite
    monkeypatch.setattr(head, "every_finite", lambda logits: seen.append(len(logits)) or every(logits))
    monkeypatch.setattr(head, "KEPT_LOGITS", 13 * VOCABULARY)
    parts, in_parts = scored()
    assert seen == [13, 13, 3]
    torch.testing.assert_close([parts, *in_parts], [whole, *gradients], atol=1e-5, rtol=1e-5)


def test_padding_is_no_part_of_a_gradient() -> None:
    model = language_model("qwen")
    scorer, now = Scorer(model), [windows[-1] for windows in documents("overlapping")]
    model.model.requires_grad_(True)
    weight = model.model.get_input_embeddings().weight
    found = [torch.autograd.grad(one.nats.sum(), weight)[0] for one in islice(score_rows(scorer, now), 1, 2)]
    alone = torch.autograd.grad(scorer.forward(now[1]).nats.sum(), weight)[0]
    torch.testing.assert_close(found[0], alone, atol=1e-5, rtol=1e-5)
