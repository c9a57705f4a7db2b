"""A text in parts: none of its tokens is lost, whatever marks stand around a part."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from driftlm.memories.bank.amortize import Encoder, StatesEncoder
from driftlm.models.prompting import tokens
from tests.support.build import language_model
from tests.support.families import BOS

LONGEST = 24


class Letters(Encoder):
    """A token for each letter."""

    def __init__(self, before: list[int], behind: list[int]) -> None:
        super().__init__()
        self.longest, self.marks = LONGEST, (before, behind)

    def tokens(self, text: str) -> list[int]:
        return list(map(ord, text))

    def forward(self, rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.zeros(len(rows), 1, 1)

    def batches(self, counts: Sequence[int]) -> list[list[int]]:
        return [[place] for place in range(len(counts))]


@pytest.mark.parametrize("marks", [([BOS], []), ([], [1]), ([2, 3], [1])])
@pytest.mark.parametrize("length", [0, 1, 20, 21, 22, 23, 24, 42, 46, 47, 100])
def test_the_parts_of_a_text_hold_all_its_tokens_between_marks(marks: tuple[list[int], list[int]], length: int) -> None:
    text, (before, behind) = "".join(chr(100 + number) for number in range(length)), marks
    parts = Letters(before, behind).parts(text)
    inside = [part[len(before) : len(part) - len(behind)] for part in parts]
    assert [token for part in inside for token in part] == list(map(ord, text))
    assert all(part == [*before, *own, *behind] for part, own in zip(parts, inside, strict=True))
    assert all(len(part) == LONGEST for part in parts[:-1]) and len(parts[-1]) <= LONGEST
    assert len(parts) == 1 or inside[-1]


def test_a_name_has_the_tokens_that_it_has_inside_a_sentence() -> None:
    model = language_model("llama")
    encoder = StatesEncoder(model, layers=(0, 2), vectors=2, inner=8, depth=1, heads=2, longest=LONGEST)
    name, sentence = (encoder.parts(text)[0][1:] for text in ("the thé", "on the thé"))
    assert sentence[-len(name) :] == name == tokens(model, " the thé") != tokens(model, "the thé")
    assert encoder.parts("the thé")[0][0] == BOS


def test_the_states_are_the_language_models_own_and_hold_no_graph() -> None:
    model = language_model("llama")
    encoder = StatesEncoder(model, layers=(0, 1), vectors=2, inner=8, depth=1, heads=2, longest=LONGEST)
    (embedded, first), mask = encoder.states([[BOS, 5, 6], [BOS, 7]])
    assert mask.tolist() == [[True, True, True], [True, True, False]]
    torch.testing.assert_close(embedded[1, :2], model.model.get_input_embeddings().weight[[BOS, 7]])
    torch.testing.assert_close(
        first[1, :2], model.model(input_ids=torch.tensor([[BOS, 7]]), output_hidden_states=True).hidden_states[1][0]
    )
    assert not embedded.requires_grad and not first.requires_grad
    assert not any(name.startswith("language_model") for name in encoder.state_dict())
