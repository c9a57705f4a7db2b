"""Models in GGUF files: the weights they hold, in whatever they compute in, and folders that others load."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from driftlm import DriftError, Learning, WeightMemory, Windows, load, read_stream
from driftlm.homes.export import export
from driftlm.memories.weights.learning import FROZEN
from driftlm.models.fetching import write_folder
from driftlm.models.machine import Machine
from driftlm.runs.formats import BASE, save, start_from
from driftlm.storage.files import sha256_of
from driftlm.streams.documents import Document
from tests.support.families import llama, tiny_tokenizer
from tests.support.made_gguf import TEMPLATE, made_gguf
from tests.support.running import QUICK, driftlm, refused, tiny_model, words, written

TEXT = words(60, 4)
IDS = torch.arange(40)[None]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS).logits


# --------------------------------------------------------------------------------------------------------- what it is


def test_weights_and_tokens_are_those_that_the_file_was_written_from(tmp_path: Path) -> None:
    made = load(made_gguf(tmp_path / "exact.gguf", quantized=False))
    assert torch.equal(logits(made.model), logits(llama()))
    assert made.tokenizer.get_vocab() == tiny_tokenizer().get_vocab() and made.tokenizer.chat_template == TEMPLATE
    assert made.encode("the rain")[0] == [0, *tiny_tokenizer()("the rain")["input_ids"]]


def test_quantized_weights_are_near_and_are_plain_weights(file: Path) -> None:
    made = load(file)
    assert 0 < (logits(made.model) - logits(llama())).abs().max() < 0.2
    assert not hasattr(made.model.config, "quantization_config") and not getattr(made.model, "is_quantized", False)
    assert {parameter.dtype for parameter in made.model.parameters()} == {torch.float32}
    assert made.name == str(file) and made.place == str(file.resolve()) and made.sha256 == sha256_of(file)


def test_a_file_a_folder_of_it_and_both_types_have_one_fingerprint(file: Path, tmp_path: Path) -> None:
    made = load(file)
    write_folder(made, tmp_path / "first")
    write_folder(load(tmp_path / "first"), tmp_path / "again")
    places = (file, file.parent, tmp_path / "first", tmp_path / "again")
    found = {load(place, dtype=dtype).fingerprint for place in places for dtype in ("float32", "bfloat16")}
    assert found == {made.fingerprint}
    assert torch.equal(logits(load(tmp_path / "again").model), logits(made.model))


def test_bfloat16_is_what_a_folder_gives(file: Path, tmp_path: Path) -> None:
    write_folder(load(file), tmp_path / "folder")
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "folder", dtype=torch.bfloat16).state_dict()
    for place in (file, tmp_path / "folder"):
        found = load(place, dtype="bfloat16").model.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) and found[name].dtype == torch.bfloat16 for name in found)


def test_loading_a_file_leaves_the_random_state_and_the_libraries_alone(file: Path) -> None:
    gguf: Any = pytest.importorskip("gguf")
    before, state = gguf.GGUFReader, torch.random.get_rng_state()
    load(file)
    assert gguf.GGUFReader is before and torch.equal(torch.random.get_rng_state(), state)


# ---------------------------------------------------------------------------------------------------------- refusals


def test_files_and_folders_that_hold_no_one_model_are_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("It rained.")
    with pytest.raises(DriftError, match=r"book\.txt is no GGUF file; give one, or a folder in HuggingFace format\."):
        load(tmp_path / "book.txt")
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(file.read_bytes())
    with pytest.raises(DriftError, match=r"holds 2 GGUF files \(a\.gguf, b\.gguf\); give one of them\."):
        load(tmp_path)
    with pytest.raises(DriftError, match=r"`Machine\.bits` 4 .* is quantized already.*leave `Machine\.bits` out\."):
        load(file, bits=4)


@pytest.mark.parametrize("size", [100, 2_000, 20_000])
def test_a_file_that_ends_too_early_is_refused_in_a_sentence(file: Path, tmp_path: Path, size: int) -> None:
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:size])
    with pytest.raises(DriftError, match=r"cut\.gguf' cannot be loaded") as refusal:
        load(tmp_path / "cut.gguf")
    assert str(refusal.value).endswith(".") and "\n" not in str(refusal.value)


def test_a_missing_package_names_the_extra(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("driftlm.models.gguf_files.find_spec", lambda name: None)
    with pytest.raises(DriftError, match=r'needs the package gguf; run pip install "driftlm\[gguf\]"'):
        load(file)


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(load(file, dtype="bfloat16"), tmp_path / "half")
    monkeypatch.setattr("driftlm.models.sizes.available_bytes", lambda device: 80_000)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the weights were loaded")

    with monkeypatch.context() as patch:
        patch.setattr(AutoModelForCausalLM, "from_pretrained", never)
        for dtype in ("float32", "bfloat16"):  # which is made of float32
            with pytest.raises(DriftError, match=r"tiny\.gguf' has 0 million .* 0\.0 GB in float32, .* a smaller mod"):
                load(file, dtype=dtype)
        with pytest.raises(DriftError, match=r"half' has .* GB in float32, .*; give `Machine\.dtype` bfloat16, or a"):
            load(tmp_path / "half")
    assert load(tmp_path / "half", dtype="bfloat16").model.dtype == torch.bfloat16


# ------------------------------------------------------------------------------------------------- learned and written


def learned(file: Path, learn: str, dtype: str) -> WeightMemory:
    memory = WeightMemory(
        load(file, dtype=dtype), Windows("overlapping", 32, 16), Learning(learn=learn, rule="sgd", learning_rate=0.1)
    )
    for _ in read_stream(memory, [Document("a", TEXT)]):
        pass
    return memory


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("learn", ["all", "lora", "dora"])
def test_what_was_learned_is_loaded_by_transformers_and_peft(
    file: Path, tmp_path: Path, learn: str, dtype: str
) -> None:
    memory = learned(file, learn, dtype)
    model = memory.language_model.model
    assert not torch.equal(logits(model), logits(load(file, dtype=dtype).model))
    folder = save(memory.language_model, memory.trainable, tmp_path / "learned")
    adapter = learn != "all"
    loaded: Any = (AutoPeftModelForCausalLM if adapter else AutoModelForCausalLM).from_pretrained(
        folder, dtype=getattr(torch, dtype)
    )
    assert (logits(loaded) - logits(model)).abs().max() <= (1e-5 if dtype == "float32" else 0.05)
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == memory.language_model.tokenizer.get_vocab()
    if adapter:  # its base is a folder that exists, with the file's own weights
        assert loaded.peft_config["default"].base_model_name_or_path == str((folder / BASE).resolve())
        assert load(folder / BASE).fingerprint == load(file).fingerprint
        of_file = start_from(folder, FROZEN, Machine(model=str(file), dtype=dtype))  # which is that model
        assert of_file.language_model.name == str(file)
        moved = folder.rename(tmp_path / "moved")
        assert start_from(moved, FROZEN, Machine(dtype=dtype)).language_model.name == str(moved / BASE)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_runs_and_homes_of_a_file_go_on_and_are_exported(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (text,) = written(tmp_path, text=TEXT)
    command = ["read", text, "--model", file, "--learn", "lora", *QUICK, "--run"]
    whole = driftlm(capsys, *command, "whole", "--save", "saved").summary
    driftlm(capsys, *command, "part", "--limit", 64, "--save", "less")
    folders = [Path("saved"), Path("exported"), Path("low")]
    driftlm(capsys, "export", "whole", "--to", "exported", "--as", "peft")
    driftlm(capsys, "export", "whole", "--to", "low", "--as", "low-rank")
    found = [logits(AutoPeftModelForCausalLM.from_pretrained(folder)) for folder in folders]
    assert torch.equal(found[0], found[1]) and (found[2] - found[0]).abs().max() < 1e-3
    again = driftlm(capsys, "read", text, "--from", "less", "--learn", "lora", *QUICK, "--run", "again").summary
    assert again["static_nats"] < whole["static_nats"]  # what was learned is what it begins with
    assert not Path("again/start/base").exists()

    home = ["home", "new", "home", "--model", file, "--learn", "lora", "--rule", "sgd", "--context", 32, "--stride", 16]
    assert driftlm(capsys, *home).code == 0
    assert driftlm(capsys, "home", "read", "home", text).code == 0
    exported = export(Path("home"), Path("of-home"), "peft", Machine(), Windows("overlapping", 32, 16))
    assert exported["folder"] == "of-home" and Path("of-home", BASE, "config.json").exists()
    AutoPeftModelForCausalLM.from_pretrained("of-home")

    outcome = driftlm(capsys, "read", text, "--model", tiny_model(tmp_path), "--from", "saved", *QUICK, "--run", "no")
    refused(outcome, "belongs to the model")
