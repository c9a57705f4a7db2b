"""Learned weights as folders that plain transformers and peft load, and as the start of another reading."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from driftlm.core.errors import DriftError
from driftlm.models.catalogue import BUNDLED
from driftlm.models.loading import load
from driftlm.models.trainable import choose
from driftlm.runs.formats import plain_weights, save
from driftlm.storage.files import appearing
from tests.support.families import FAMILIES
from tests.support.running import QUICK, driftlm, refused, tiny_model, words, written
from tests.support.saved_weights import RATES, TEXT, Capture, close, plain_nats, static_nats


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, a=words(50, 1), b=words(50, 2), c=words(50, 3), text=TEXT)


# ---------------------------------------------------------------------------------------------------------------- save


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("learn", ["all", "lora", "dora", "norms", "none"])
def test_saved_weights_are_what_other_tools_load(learn: str, family: str, tmp_path: Path, capsys: Capture) -> None:
    model = ["--model", tiny_model(tmp_path, family)]
    rate = ["--learning-rate", RATES.get(learn, 0.1)]
    read = ["read", "a.txt", *model, *QUICK, "--learn", learn, *rate, "--run", "run", "--save", "out/saved"]
    assert driftlm(capsys, *read).summary["saved"] == "out/saved"
    saved = tmp_path / "out" / "saved"
    assert (saved / "adapter_config.json").exists() == (learn in ("lora", "dora"))
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]
    plain = plain_nats(saved)
    assert close(static_nats(capsys, "--from", "out/saved", "--learn", "none"), plain)
    assert close(static_nats(capsys, "--from", "run", "--learn", "none"), plain)
    before = static_nats(capsys, *model, "--learn", "none")
    assert (plain == pytest.approx(before)) if learn == "none" else (plain < 0.98 * before)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("llama", "gpt2")])
def test_every_family_is_saved(family: str, tmp_path: Path, capsys: Capture) -> None:
    model = ["--model", tiny_model(tmp_path, family)]
    for learn in ("all", "lora", "dora"):
        read = ["read", "a.txt", *model, *QUICK, "--learn", learn, "--learning-rate", RATES[learn], "--run", learn]
        assert driftlm(capsys, *read, "--save", f"{learn}-saved").code == 0
        assert close(static_nats(capsys, "--from", learn, "--learn", "none"), plain_nats(f"{learn}-saved"))


def test_layers_and_target_modules_are_saved_as_chosen(tmp_path: Path, capsys: Capture) -> None:
    chosen = ["--learn", "lora", "--layers", "1-1", "--target-modules", "q_proj,v_proj", "--rank", 2]
    model = ["--model", tiny_model(tmp_path)]
    read = ["read", "a.txt", *model, *QUICK, *chosen, "--learning-rate", 2, "--run", "run", "--save", "saved"]
    assert driftlm(capsys, *read).code == 0
    config = json.loads((tmp_path / "saved" / "adapter_config.json").read_bytes())
    assert config["r"] == config["lora_alpha"] == 2
    assert sorted(config["target_modules"]) == [f"model.layers.1.self_attn.{name}" for name in ("q_proj", "v_proj")]
    assert close(static_nats(capsys, "--from", "run", "--learn", "none"), plain_nats("saved"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("learn", ["lora", "dora"])
def test_the_readme_of_an_adapter_says_what_it_is_and_loads_it(
    learn: str, dtype: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["--model", tiny_model(tmp_path), *QUICK, "--learn", learn, "--rank", 3, "--dtype", dtype]
    chosen = ["--target-modules", "q_proj,v_proj", "--learning-rate", 0.5]
    assert driftlm(capsys, "read", "a.txt", *settings, *chosen, "--run", "run", "--save", "saved").code == 0
    card = Path("saved", "README.md").read_text()
    kind = {"lora": "LoRA", "dora": "DoRA"}[learn]
    assert f"{kind} of rank 3, on the linear maps q_proj, v_proj" in card and "`llama`, a folder" in card
    assert str(tmp_path) not in card and "More Information" not in card
    (block,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    monkeypatch.chdir("saved")
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["model"].base_model.model.get_input_embeddings().weight.dtype == getattr(torch, dtype)
    assert names["tokenizer"]("the sea")["input_ids"]


def test_the_readme_names_a_hub_model_and_the_bundled_one(tmp_path: Path) -> None:
    shown = {}
    for name in ("some/model", str(BUNDLED)):
        language_model = load(tiny_model(tmp_path))
        language_model.name = name
        save(language_model, choose(language_model, "lora"), f"out-{len(shown)}")
        shown[name] = Path(f"out-{len(shown)}", "README.md").read_text()
    assert "base_model: some/model\n" in shown["some/model"] and "- base: `some/model`" in shown["some/model"]
    bundled = shown[str(BUNDLED)]
    assert "- base: the model that comes with driftlm" in bundled and "base_model:" not in bundled
    assert str(BUNDLED) not in bundled


def test_bfloat16_stays_bfloat16(tmp_path: Path, capsys: Capture) -> None:
    settings = ["--model", tiny_model(tmp_path), *QUICK, "--dtype", "bfloat16", "--learning-rate", 0.2]
    assert driftlm(capsys, "read", "a.txt", *settings, "--run", "run", "--save", "saved").code == 0
    assert AutoModelForCausalLM.from_pretrained("saved", dtype="auto").dtype == torch.bfloat16
    nats = [static_nats(capsys, "--from", source, "--dtype", "bfloat16") for source in ("run", "saved")]
    assert nats[0] == nats[1]


def test_the_weights_under_an_adapter_are_saved_plain(tmp_path: Path) -> None:
    language_model = load(tiny_model(tmp_path))
    before = {name: tensor.clone() for name, tensor in language_model.model.state_dict().items()}
    choose(language_model, "dora")
    held = plain_weights(language_model.model)
    assert held.keys() == before.keys()
    assert all(torch.equal(held[name], tensor) for name, tensor in before.items())
    save(language_model, None, "plain")
    with pytest.raises(DriftError, match="exists already"):
        save(language_model, None, "plain")
    assert load("plain").fingerprint == load(tiny_model(tmp_path)).fingerprint


def test_a_folder_that_is_not_written_to_its_end_is_not_there(tmp_path: Path) -> None:
    def on_a_full_disk() -> None:
        with appearing(tmp_path / "saved") as partial:
            partial.mkdir()
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        on_a_full_disk()
    assert not list(tmp_path.glob("saved*"))


# ---------------------------------------------------------------------------------------------------------------- from


@pytest.mark.parametrize(
    ("first", "second"),
    [("all", "lora"), ("all", "norms"), ("lora", "all"), ("lora", "lora"), ("norms", "dora"), ("dora", "norms")],
)
def test_a_chain_of_readings_keeps_what_each_learned(first: str, second: str, tmp_path: Path, capsys: Capture) -> None:
    model = ["--model", tiny_model(tmp_path)]

    def read(name: str, text: str, learn: str, *source: object) -> None:
        chosen = ["--learn", learn, "--learning-rate", RATES[learn] / 2, "--compare", "none"]
        outcome = driftlm(capsys, "read", text, *source, *QUICK, *chosen, "--run", name, "--save", f"{name}-saved")
        assert outcome.code == 0, outcome

    read("one", "a.txt", first, *model)
    read("two", "b.txt", second, "--from", "one")
    read("three", "c.txt", first, "--from", "two-saved")
    nats = [static_nats(capsys, *model)]
    for name in ("one", "two", "three"):
        plain = plain_nats(f"{name}-saved")
        for source in (name, f"{name}-saved"):
            assert close(static_nats(capsys, "--from", source, "--learn", second), plain), source
        nats.append(plain)
    assert nats[1] < nats[0] and len(set(nats)) == 4  # every reading changed it


def test_an_adapter_is_continued_by_its_kind_and_merged_by_another(tmp_path: Path, capsys: Capture) -> None:
    read = ["read", "a.txt", *QUICK, "--learning-rate", 0.5]
    first = ["--model", tiny_model(tmp_path), "--learn", "lora", "--rank", 3, "--run", "one", "--save", "1"]
    assert driftlm(capsys, *read, *first).code == 0
    for source in ("one", "1"):
        for learn, rank in (("lora", 3), ("dora", 5)):
            name = f"{source}-{learn}"
            more = ["--from", source, "--learn", learn, "--rank", 5, "--run", name, "--save", f"{name}-saved"]
            assert driftlm(capsys, *read, *more).code == 0
            config = json.loads((tmp_path / f"{name}-saved" / "adapter_config.json").read_bytes())
            continued = learn == "lora"
            assert config["r"] == rank
            assert (config["base_model_name_or_path"] == str(tmp_path / "llama")) == continued
            assert (tmp_path / name / "start" / "adapter_config.json").exists() == continued


@pytest.mark.parametrize(
    "memory", [["--memory", "bm25"], ["--sources", "bm25"], ["--sources", "bm25", "--learn", "none"]]
)
def test_a_run_with_documents_beside_the_weights_is_read_on_from(
    memory: list[str], tmp_path: Path, capsys: Capture
) -> None:
    model = ["--model", tiny_model(tmp_path)]
    read = ["read", "a.txt", "b.txt", *model, *QUICK, "--learning-rate", 0.1, *memory, "--run", "run"]
    assert driftlm(capsys, *read).code == 0
    before, after = static_nats(capsys, *model), static_nats(capsys, "--from", "run", "--learn", "none")
    learned = memory == ["--sources", "bm25"]
    assert (after < 0.98 * before) if learned else (after == before)
    assert driftlm(capsys, "export", "run", "--to", "out", "--as", "huggingface").code == 0
    assert close(plain_nats("out"), after)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_a_foreign_adapter_is_taken_as_it_is(tmp_path: Path, capsys: Capture) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path))
    config = LoraConfig(r=4, lora_alpha=32, lora_dropout=0.1, target_modules=["o_proj", "up_proj"], use_rslora=True)
    adapted = get_peft_model(model, config)
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.05)
    adapted.save_pretrained("foreign")
    AutoTokenizer.from_pretrained(tiny_model(tmp_path)).save_pretrained("foreign")
    plain = plain_nats("foreign")
    assert not close(plain, plain_nats("llama"))
    for learn in ("none", "lora", "norms"):
        assert close(static_nats(capsys, "--from", "foreign", "--learn", learn), plain)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_what_cannot_be_started_from_is_refused(tmp_path: Path, capsys: Capture) -> None:
    base = tiny_model(tmp_path)
    read = ["read", "a.txt", *QUICK, "--run", "run"]
    (tmp_path / "empty").mkdir()
    refused(driftlm(capsys, *read, "--from", "empty"), "--from empty is neither")
    refused(driftlm(capsys, *read, "--from", "a.txt"), "--from a.txt is neither")
    assert driftlm(capsys, "home", "new", "home", "--model", base, "--context", 32, "--stride", 16).code == 0
    for asked in (read, ["generate", "the sea"]):
        refused(driftlm(capsys, *asked, "--from", "home"), "--from home is a home", "driftlm export home --to LEARNED")

    adapter(base, "prefix", PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    refused(driftlm(capsys, *read, "--from", "prefix"), "PREFIX_TUNING", "LoRA")
    adapter(base, "lora", LoraConfig(target_modules=["q_proj"]))
    refused(driftlm(capsys, *read, "--from", "lora", "--model", tiny_model(tmp_path, "qwen")), "belongs to", "--model")
    edit(tmp_path / "lora", base_model_name_or_path=None)
    refused(driftlm(capsys, *read, "--from", "lora"), "--model")
    refused(driftlm(capsys, *read, "--from", "lora", "--model", tiny_model(tmp_path, "neox")), "does not fit")
    assert driftlm(capsys, *read, "--from", "lora", "--model", base).code == 0
    (tmp_path / "lora" / "adapter_model.safetensors").write_bytes(b"\0" * 20)
    refused(driftlm(capsys, *read[:-1], "other", "--from", "lora", "--model", base), "does not fit")
    (tmp_path / "lora" / "adapter_config.json").write_text("{")
    refused(driftlm(capsys, *read[:-1], "other", "--from", "lora"), "adapter_config.json")

    for checkpoint in (tmp_path / "run").glob("checkpoint-*"):
        checkpoint.rename(tmp_path / checkpoint.name)
    refused(driftlm(capsys, *read[:-1], "other", "--from", "run"), "before its first checkpoint")


def adapter(base: Path, name: str, config: Any) -> None:
    model: PeftModel = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.save_pretrained(name)


def edit(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))
