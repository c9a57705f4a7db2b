"""`driftlm home ask` and `/v1/chat/completions` say the same about the same home."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.homes import model
from tests.support.running import driftlm, words
from tests.support.servers import MODEL, server

Capture = pytest.CaptureFixture[str]
READ = (("a/1", "the storm was on the red sea"), ("b/2", f"her ship and that ring {words(12)}"))
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(autouse=True)
def of_the_model_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("driftlm.homes.opening.loaded", lambda machine, name: model())


@pytest.fixture(params=["plain", "template"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How conversations are written: for a tokenizer without a chat template, and with one."""
    if request.param == "template":
        monkeypatch.setattr(model().tokenizer, "chat_template", TEMPLATE)
    return str(request.param)


def served(folder: Path, kind: str, *conversations: list[tuple[str, str]]) -> list[Any]:
    """What the server says to conversations about a home that it made and that has read."""
    with server(folder, kind) as one:
        assert one.read(*READ).status_code == 200
        said = []
        for turns in conversations:
            messages = [{"role": role, "content": text} for role, text in turns]
            asked = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 12}
            reply = one.client.post("/v1/chat/completions", json=asked).json()
            said.append((reply["choices"][0]["message"]["content"], reply["documents"], reply["usage"]))
        return said


@pytest.mark.parametrize("kind", ["all adam", "words", "learns behind words"])
def test_a_question_gets_the_answer_of_the_server(kind: str, form: str, tmp_path: Path, capsys: Capture) -> None:
    question, system = "where was the storm?", "on the sea"
    (plain, behind) = served(tmp_path, kind, [("user", question)], [("system", system), ("user", question)])
    asked = ("home", "ask", tmp_path / "default", question, "--tokens", 12)
    said = driftlm(capsys, *asked, "--json").summary
    assert (said["answer"], said["documents"]) == plain[:2] and said["question"] == question
    assert (said["prompt_tokens"], said["completion_tokens"]) == (
        plain[2]["prompt_tokens"],
        plain[2]["completion_tokens"],
    )
    assert bool(said["documents"]) == (kind != "all adam")
    told = driftlm(capsys, *asked, "--json", "--system", system).summary
    assert (told["answer"], told["documents"]) == behind[:2]
    assert told["prompt_tokens"] == behind[2]["prompt_tokens"] > said["prompt_tokens"]

    answer, *documents = driftlm(capsys, *asked).out.splitlines()
    assert answer == said["answer"]
    assert [line.split()[1] for line in documents] == [one["id"] for one in said["documents"]]


@pytest.mark.parametrize("kind", ["all adam", "words"])
def test_an_open_prompt_keeps_the_conversation(
    kind: str, form: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = "where was the storm?", "that ship?"
    ((answer, *_),) = served(tmp_path / "one", kind, [("user", first)])
    (one, two) = served(
        tmp_path / "two",
        kind,
        [("user", first)],
        [("user", first), ("assistant", answer), ("user", second)],
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{first}\n\n  {second}\n"))
    outcome = driftlm(capsys, "home", "ask", tmp_path / "two" / "default", "--tokens", 12, "--json")
    said = [json.loads(line) for line in outcome.out.splitlines()]
    assert outcome.code == 0 and outcome.err == ""
    assert [(line["answer"], line["documents"]) for line in said] == [one[:2], two[:2]]
    assert said[1]["prompt_tokens"] == two[2]["prompt_tokens"] > said[0]["prompt_tokens"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert driftlm(capsys, "home", "ask", tmp_path / "two" / "default") == (0, "", "")
