"""What was learned, exported: plain transformers and peft score with it as stated, and reading goes on from it."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.families import FAMILIES, changed
from tests.support.running import QUICK, driftlm, refused, tiny_model, words, written
from tests.support.saved_weights import RATES, TEXT, Capture, close, plain_nats, static_nats


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, a=words(50, 1), b=words(50, 2), text=TEXT)


def learned_folder(place: Path, family: str) -> Path:
    """A whole model that differs from the family's tiny one in every parameter."""
    changed(family).save_pretrained(place / "learned")  # type: ignore[operator]
    AutoTokenizer.from_pretrained(tiny_model(place, family)).save_pretrained(place / "learned")
    return place / "learned"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_low_rank_delta_scores_as_it_says(family: str, tmp_path: Path, capsys: Capture) -> None:
    base, learned = tiny_model(tmp_path, family), learned_folder(tmp_path, family)
    wanted = ["--to", "out/delta", "--as", "low-rank", "--rank", 3, "--text", "text.txt", "--json"]
    facts = driftlm(capsys, "export", learned, "--model", base, *wanted).summary
    assert [path.name for path in Path("out").iterdir()] == ["delta"]
    assert facts | {"folder": "", "as": ""} == json.loads(Path("out/delta/low_rank.json").read_bytes()) | {
        "folder": "",
        "as": "",
    }
    places = {"prior": base, "exact": learned, "exported": "out/delta"}
    nats = {name: plain_nats(place) for name, place in places.items()}
    for name, expected in nats.items():
        assert close(facts[f"{name}_nats_per_token"] * facts["tokens"], expected)
    assert len({round(value, 4) for value in nats.values()}) == 3
    assert close(static_nats(capsys, "--from", "out/delta", "--learn", "none"), nats["exported"])
    assert close(static_nats(capsys, "--from", "out/delta", "--learn", "lora"), nats["exported"])
    rows = facts["tensors"]
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert facts["relative_error"] ** 2 == pytest.approx(sum(row["share"] * row["relative_error"] ** 2 for row in rows))
    assert facts["left_out_share"] == pytest.approx(sum(row["share"] for row in rows if row["left_out"]))
    assert all((row["relative_error"] == 1) == row["left_out"] for row in rows)


@pytest.mark.parametrize("learn", ["all", "lora", "dora", "norms"])
def test_a_run_is_exported_in_every_format_it_fits(learn: str, tmp_path: Path, capsys: Capture) -> None:
    read = ["read", "a.txt", "--model", tiny_model(tmp_path), *QUICK, "--learn", learn, "--rank", 2, "--run", "run"]
    assert driftlm(capsys, *read, "--learning-rate", RATES[learn], "--save", "saved").code == 0
    plain = plain_nats("saved")
    for source in ("run", "saved"):
        assert driftlm(capsys, "export", source, "--to", f"{source}-whole", "--as", "huggingface").code == 0
        assert close(plain_nats(f"{source}-whole"), plain)
        as_peft = ["export", source, "--to", f"{source}-peft", "--as", "peft"]
        if learn in ("all", "norms"):
            refused(driftlm(capsys, *as_peft), "holds no adapter", "low-rank")
        else:
            assert driftlm(capsys, *as_peft).code == 0
            held, saved = (load_file(f"{name}/adapter_model.safetensors") for name in (f"{source}-peft", "saved"))
            assert held.keys() == saved.keys() and all(torch.equal(held[name], saved[name]) for name in saved)
    delta = ["export", "run", "--as", "low-rank", "--to"]
    if learn == "norms":
        refused(driftlm(capsys, *delta, "2"), "no linear map")
        return
    error = {
        rank: driftlm(capsys, *delta, rank, "--rank", rank, "--json").summary["relative_error"] for rank in (2, 32)
    }
    if learn == "all":
        assert error[2] > error[32] > 0.1  # embeddings and norms are left out
    else:
        assert close(plain_nats("32"), plain) and error[32] < 1e-4
        assert (error[2] < 1e-4) == (learn == "lora")  # a LoRA of rank 2 is a delta of rank 2


@pytest.mark.parametrize("learn", ["all", "lora"])
def test_a_home_is_exported_as_a_run_of_the_same_reading_is(learn: str, tmp_path: Path, capsys: Capture) -> None:
    how = ["--rule", "sgd", "--context", "32", "--stride", "16", "--threads", "1", "--model", tiny_model(tmp_path)]
    learning = ["--learn", learn, "--rank", 2, "--learning-rate", RATES[learn]]
    assert driftlm(capsys, "read", "a.txt", *how, *learning, "--run", "run", "--no-report").code == 0
    assert driftlm(capsys, "home", "new", "home", *how, *learning, "--sources", "bm25").code == 0
    assert driftlm(capsys, "home", "read", "home", "a.txt").code == 0
    kinds = {"huggingface", "low-rank"} | ({"peft"} if learn == "lora" else set())
    for kind in kinds:
        for source in ("run", "home"):
            assert driftlm(capsys, "export", source, "--to", f"{kind}/{source}", "--as", kind).code == 0
        assert close(plain_nats(f"{kind}/home"), plain_nats(f"{kind}/run"))
    assert not close(plain_nats("huggingface/home"), plain_nats(tiny_model(tmp_path)))
    if learn == "all":
        refused(driftlm(capsys, "export", "home", "--to", "no", "--as", "peft"), "holds no adapter")
    assert driftlm(capsys, "home", "read", "home", "b.txt").code == 0  # the home is as it was
    driftlm(capsys, "home", "new", "mixed", *how[2:], "--rule", "mixture")
    refused(driftlm(capsys, "export", "mixed", "--to", "no", "--as", "huggingface"), "mixture")
    assert not Path("no").exists()


def test_the_rank_of_a_delta_is_the_one_that_was_written(tmp_path: Path, capsys: Capture) -> None:
    base, learned = tiny_model(tmp_path), learned_folder(tmp_path, "llama")
    wanted = ["export", learned, "--model", base, "--as", "low-rank", "--rank", 100_000, "--to"]
    assert driftlm(capsys, *wanted, "said").out.splitlines()[-2].startswith("rank 32 misses")
    assert driftlm(capsys, *wanted, "json", "--json").summary["rank"] == 32
    for folder in ("said", "json"):
        assert json.loads(Path(folder, "low_rank.json").read_bytes())["rank"] == 32
        assert json.loads(Path(folder, "adapter_config.json").read_bytes())["r"] == 32


def test_an_adapter_becomes_the_model_of_a_home_by_being_merged(tmp_path: Path, capsys: Capture) -> None:
    lora = ["--learn", "lora", "--rank", 2, "--learning-rate", RATES["lora"]]
    read = ["read", "a.txt", "--model", tiny_model(tmp_path), *QUICK, *lora, "--run", "run"]
    assert driftlm(capsys, *read).code == 0
    assert driftlm(capsys, "export", "run", "--to", "adapter", "--as", "peft").code == 0
    grid = ["--context", 64, "--stride", 64, "--threads", 1]
    new = ["home", "new", "home", *grid, *lora, "--model"]
    refused(driftlm(capsys, *new, "adapter"), "is an adapter", "driftlm export adapter --to MERGED --as huggingface")
    assert not Path("home").exists()
    assert driftlm(capsys, "export", "adapter", "--to", "MERGED", "--as", "huggingface").code == 0
    assert driftlm(capsys, *new, "MERGED").code == 0
    documents = driftlm(capsys, "home", "read", "home", "text.txt", "--json").summary
    nats = static_nats(capsys, "--model", "MERGED", "--learn", "none")
    assert close(nats, plain_nats("adapter")) and not close(nats, plain_nats("llama"))
    assert close(documents["static_nats"], nats)


def test_the_base_of_a_delta_is_what_the_run_began_with(tmp_path: Path, capsys: Capture) -> None:
    model = ["--model", tiny_model(tmp_path)]
    for name, text, source in (("one", "a.txt", model), ("two", "b.txt", ["--from", "one"])):
        layers = ["--layers", "0-1", "--learning-rate", 0.2, "--run", name]
        assert driftlm(capsys, "read", text, *source, *QUICK, *layers).code == 0
    assert driftlm(capsys, "export", "two", "--as", "huggingface", "--to", "whole").code == 0
    shown = driftlm(capsys, "export", "two", "--as", "low-rank", "--rank", 32, "--to", "delta", "--text", "text.txt")
    assert shown.out.splitlines()[-1] == "delta" and "of the change" in shown.out and "left out" in shown.out
    facts = json.loads(Path("delta/low_rank.json").read_bytes())
    assert facts["base"] == str(tmp_path / "two" / "start")
    assert close(plain_nats("delta/../two/start"), facts["prior_nats_per_token"] * facts["tokens"])
    assert close(plain_nats("delta"), facts["exported_nats_per_token"] * facts["tokens"])
    norms = [row["name"] for row in facts["tensors"] if row["left_out"]]
    assert norms and all("norm" in name for name in norms)
    assert abs(plain_nats("delta") - plain_nats("whole")) < 0.2 * abs(plain_nats("whole") - plain_nats("two/start"))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_a_foreign_adapter_of_several_ranks_is_a_prior_and_a_delta(tmp_path: Path, capsys: Capture) -> None:
    base = tiny_model(tmp_path)
    config = LoraConfig(
        r=3,
        lora_alpha=10,
        rank_pattern={"down_proj": 5},
        alpha_pattern={"v_proj": 1},
        target_modules=["v_proj", "down_proj"],
        use_rslora=True,
    )
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.1)
    adapted.save_pretrained("foreign")
    AutoTokenizer.from_pretrained(base).save_pretrained("foreign")
    plain = plain_nats("foreign")
    assert not close(plain, plain_nats(base))
    for learn in ("none", "lora"):
        assert close(static_nats(capsys, "--from", "foreign", "--learn", learn), plain)
    facts = driftlm(capsys, "export", "foreign", "--as", "low-rank", "--rank", 5, "--to", "delta", "--json").summary
    assert facts["relative_error"] < 1e-4 and len(facts["tensors"]) == 4
    assert close(plain_nats("delta"), plain)


def test_what_cannot_be_exported_is_refused(tmp_path: Path, capsys: Capture) -> None:
    base = tiny_model(tmp_path)
    (tmp_path / "empty").mkdir()
    refused(driftlm(capsys, "export", "empty", "--to", "out", "--as", "huggingface"), "empty", "no run")
    refused(driftlm(capsys, "export", base, "--to", "empty", "--as", "huggingface"), "exists already")
    refused(driftlm(capsys, "export", base, "--to", "out", "--as", "huggingface", "--bits", 4), "--bits 4")
    low_rank = ["export", base, "--to", "out", "--as", "low-rank"]
    refused(driftlm(capsys, *low_rank, "--model", tiny_model(tmp_path, "qwen")), "another model", "--model")
    refused(driftlm(capsys, *low_rank, "--model", base), "no linear map")
    learned = learned_folder(tmp_path, "llama")
    wanted = ["export", learned, "--model", base, "--to", "out", "--as", "low-rank"]
    refused(driftlm(capsys, *wanted, "--rank", 0), "--rank was 0")
    refused(driftlm(capsys, *wanted, "--text", "missing.txt"), "missing.txt")
    assert not Path("out").exists() and not list(tmp_path.glob("*.partial"))
