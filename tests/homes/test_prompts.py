"""How conversations are written, with a chat template and without."""

import copy
from dataclasses import replace

import pytest

from driftlm import DriftError
from driftlm.homes.prompts import Role, chatted, continued
from driftlm.models.loading import LanguageModel
from driftlm.models.prompting import prompt_ids
from tests.support.homes import model

TALK: list[tuple[Role, str]] = [("system", "Be red."), ("user", "the sea?"), ("assistant", "No."), ("user", "a ship?")]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def text_of(language_model: LanguageModel, ids: list[int]) -> str:
    return str(language_model.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def templated() -> LanguageModel:
    tokenizer = copy.deepcopy(model().tokenizer)
    tokenizer.chat_template = TEMPLATE
    return replace(model(), tokenizer=tokenizer)


def test_without_a_template_it_is_questions_and_answers() -> None:
    ids = chatted(model(), TALK).ids("It rained.")
    assert ids[0] == model().bos
    assert text_of(model(), ids[1:]) == (
        " It rained.\nBe red.\nQuestion: the sea?\nAnswer: No.\nQuestion: a ship?\nAnswer:"
    )
    assert chatted(model(), TALK[-1:]).ids("It rained.") == prompt_ids(model(), "a ship?", "It rained.")
    assert chatted(model(), TALK[:1] + TALK[-1:]).ids("") == prompt_ids(model(), "a ship?", "Be red.")
    assert chatted(model(), TALK).question == "a ship?"


def test_a_template_is_used_where_there_is_one() -> None:
    prompt = chatted(templated(), TALK[1:])
    assert (
        text_of(model(), prompt.ids("It rained."))
        == "[user]the sea?[assistant]No.[user]It rained.\n\na ship?[assistant]"
    )
    assert text_of(model(), prompt.ids("")).endswith("[user]a ship?[assistant]")
    with pytest.raises(DriftError, match="no system"):
        chatted(templated(), TALK).ids("")


def test_what_is_continued_stands_behind_what_is_supplied() -> None:
    prompt = continued(model(), "the sea")
    assert prompt.question == "the sea" and prompt.ids("")[0] == model().bos
    assert text_of(model(), prompt.ids("")[1:]) == "the sea"
    assert text_of(model(), prompt.ids("red")[1:]) == "red\nthe sea"


def test_somebody_has_to_ask() -> None:
    with pytest.raises(DriftError, match="user come last"):
        chatted(model(), TALK[:3])
