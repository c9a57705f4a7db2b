"""A prompt continued by what a run learned."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.running import QUICK, driftlm, refused, tiny_model, written

Capture = pytest.CaptureFixture[str]
PROMPT = "the sea and the"


def test_a_run_continues_a_prompt_by_what_it_learned(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = ["--model", tiny_model(tmp_path)]
    written(tmp_path, a="the storm of the ring " * 60)
    for learn, rate in (("all", 0.3), ("lora", 1.0)):
        chosen = ["--learn", learn, "--learning-rate", rate, "--run", learn, "--save", f"{learn}-saved"]
        assert driftlm(capsys, "read", "a.txt", *model, *QUICK, *chosen).code == 0
    greedy = ["generate", "the storm of", "--tokens", 12, "--temperature", 0, "--threads", 1]
    texts = [driftlm(capsys, *greedy, "--from", source).out for source in ("all", "all-saved")]
    assert texts[0] == texts[1] and texts[0].startswith("the storm of ring")
    texts = [driftlm(capsys, *greedy, "--from", source).out for source in ("lora", "lora-saved")]
    assert texts[0] == texts[1] and texts[0] != driftlm(capsys, *greedy, *model).out


def test_the_likeliest_tokens_are_those_of_plain_transformers(tmp_path: Path, capsys: Capture) -> None:
    folder = tiny_model(tmp_path, "qwen")
    outcome = driftlm(capsys, "generate", PROMPT, "--model", folder, "--tokens", 15, "--temperature", 0, "--threads", 1)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.bos_token_id, *tokenizer(PROMPT, add_special_tokens=False)["input_ids"]]
    for _ in range(15):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    assert outcome.out == tokenizer.decode(ids, skip_special_tokens=True) + "\n"
    assert outcome.code == 0 and outcome.err == ""


def test_the_seed_decides_what_is_sampled(tmp_path: Path, capsys: Capture) -> None:
    generate = ["generate", PROMPT, "--model", tiny_model(tmp_path), "--tokens", 20, "--threads", 1]
    texts = [driftlm(capsys, *generate, "--seed", seed, "--temperature", 1.5).out for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert all(text.startswith(PROMPT) for text in texts)


def test_a_space_before_the_first_new_word_is_kept(shared: Path, capsys: Capture) -> None:
    # A SentencePiece tokenizer drops it when the new tokens are decoded alone.
    stories = ["--model", shared / "models" / "stories260k", "--tokens", 5, "--temperature", 0, "--threads", 1]
    assert driftlm(capsys, "generate", "Once upon a", *stories).out.startswith("Once upon a time")
    assert driftlm(capsys, "generate", "Once upon a time", *stories).out.startswith("Once upon a time, ")


def test_what_cannot_be_continued_is_refused(tmp_path: Path, capsys: Capture) -> None:
    model = ["--model", tiny_model(tmp_path)]
    refused(driftlm(capsys, "generate", "", *model), "prompt is empty")
    refused(driftlm(capsys, "generate", PROMPT, *model, "--tokens", 0), "--tokens was 0")
    refused(driftlm(capsys, "generate", PROMPT, *model, "--temperature", -1), "--temperature -1")
    refused(driftlm(capsys, "generate", PROMPT, *model, "--tokens", 511), "512 positions")
    refused(driftlm(capsys, "generate", PROMPT, *model, "--from", tmp_path / "nothing"), "neither a run")
