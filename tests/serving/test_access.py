"""Tokens and who may use them."""

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftlm import DriftError
from driftlm.serving.access import Tokens, bearer

ADA, BO = "a" * 16, "bo-secret._~+/-01=="


def test_a_token_is_its_tenants_alone() -> None:
    tokens = Tokens(["# who", "", f"ada {ADA}", f"  bo\t{BO} ", f"ada {ADA[::-1]}b"], "here")
    assert [tokens.tenant(one) for one in (ADA, BO, f"{ADA}b", "", ADA[:-1], ADA.upper(), f" {ADA}")] == [
        "ada", "bo", "ada", None, None, None, None,
    ]  # fmt: skip
    assert ADA not in repr(vars(tokens)) and BO not in repr(vars(tokens))


@given(st.text(max_size=40))
def test_no_other_text_is_a_token(text: str) -> None:
    assert Tokens([f"ada {ADA}"], "here").tenant(text) == ("ada" if text == ADA else None)


def test_every_token_is_compared_without_an_early_end(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = list[bytes]()

    def noted(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return one == other

    tokens = Tokens([f"ada {ADA}", f"bo {BO}"], "here")
    monkeypatch.setattr(hmac, "compare_digest", noted)
    for given_token in (ADA, BO, "wrong"):
        compared.clear()
        tokens.tenant(given_token)
        assert len(compared) == 2 and all(len(one) == 32 for one in compared)


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        ([], "holds no token"),
        (["# ada"], "holds no token"),
        (["ada"], "line 1"),
        ([f"ada {ADA} more"], "line 1"),
        ([f"../ada {ADA}"], "line 1"),
        (["", "ada short"], "line 2: the token is shorter than 16"),
        ([f"ada {ADA}é"], "line 1"),
        ([f"ada {ADA}", f"bo {ADA}"], "another tenant's already"),
    ],
)
def test_lines_that_are_none_are_refused_and_not_shown(lines: list[str], part: str) -> None:
    with pytest.raises(DriftError, match=part) as refused:
        Tokens(lines, "tokens.txt")
    assert "tokens.txt" in str(refused.value) and ADA not in str(refused.value)


def test_only_bearers_have_tokens() -> None:
    assert [bearer(text) for text in (f"Bearer {ADA}", f"bearer  {ADA} ", ADA, f"Basic {ADA}", "", "Bearer")] == [
        ADA, ADA, "", "", "", "",
    ]  # fmt: skip
