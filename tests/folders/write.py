"""Write one small folder of every kind that outlives a version, and what this version makes of them.

`tests/folders/v1` was written by version 0.1.0 at commit 47dc01d. Later versions have to open these very bytes, so run
this again only to add a kind, from a checkout of the version that the kind is to be from:

    python -m tests.folders.write FOLDER

Paths of the model are recorded in full, so FOLDER is a place that no machine of a reader has; what is in it is moved to
`tests/folders/v1` afterwards. Nothing here is needed to read what was written: that is `tests/folders/outcomes.py`.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from driftlm.cli.main import main
from driftlm.models.loading import no_progress_bar
from tests.folders.outcomes import KINDS, MODEL
from tests.support.families import BOS, POSITIONS, VOCABULARY, _build, tiny_tokenizer
from tests.support.running import Outcome, start, words

SHAPES = ["--vectors", 2, "--encoder-width", 8, "--encoder-layers", 1, "--encoder-heads", 2, "--blocks", 1]
SHAPES += ["--heads", 2, "--head-width", 4, "--key-width", 4, "--longest", 128]
GRID = ["--context", 32, "--stride", 16]
ALONE = ["--model", MODEL, "--threads", 1]
QUIET = ["--no-live", "--no-report"]


def say(*arguments: object) -> Outcome:
    """Run a command in this process; one that fails ends the writing."""
    out, err, code = StringIO(), StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def done(*arguments: object) -> None:
    """Run a command that has to succeed."""
    outcome = say(*arguments)
    assert outcome.code == 0, (arguments, outcome)


def write_model() -> None:
    """A Llama of 9,000 parameters that has learned to write words, as a HuggingFace folder."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=BOS,
    )
    model, tokenizer = _build(LlamaForCausalLM, config, 1), tiny_tokenizer()
    ids = torch.tensor([tokenizer(words(60, seed))["input_ids"][:65] for seed in range(64)])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in range(200):
        model(input_ids=ids[step % 8 :: 8], labels=ids[step % 8 :: 8]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with no_progress_bar():
        model.save_pretrained(MODEL)
    tokenizer.save_pretrained(MODEL)


def write_lines(path: Path, lines: Sequence[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_texts() -> None:
    """Documents for runs, for homes, and with questions; texts at the places that a claims study reads."""
    texts = Path("texts")
    texts.mkdir()
    for seed, name in enumerate(("a", "b", "more")):
        (texts / f"{name}.txt").write_text(words(70, seed), encoding="utf-8")
    several = [(20, "one"), (50, "two"), (35, "three"), (60, "four"), (15, "five")]
    write_lines(
        texts / "several.jsonl",
        [
            {"id": name, "text": words(count, count), "date": f"2001-0{n + 1}-01"}
            for n, (count, name) in enumerate(several)
        ],
    )
    for number in range(6):
        text = f"mark{number} {words(10, number)}"
        write_lines(texts / f"d{number}.jsonl", [{"id": f"d{number}", "text": text, "date": f"{2000 + number}-06-15"}])
    for name, count in (("questions", 6), ("trained", 40)):
        lines: list[dict[str, str]] = []
        for number in range(count):
            lines.append({"id": f"s{number}", "text": f"The thing number {number} was on the sea."})
            lines.append({"question": f"Where was {number}?", "answer": "on the sea", "document": f"s{number}"})
        write_lines(texts / f"{name}.jsonl", lines)
    book = Path("data", "books", "pg19_1684.txt")
    book.parent.mkdir(parents=True)
    book.write_text(words(2000, 7), encoding="utf-8")


def stop(run: str, windows: int, *arguments: object) -> None:
    """Start to read and press Ctrl-C behind some windows."""
    here = Path.cwd()
    process = start(here, "read", *arguments, *ALONE, *QUIET, "--checkpoint", 0, "--run", run, pause=0.05)

    def far_enough() -> bool:
        return any(int(place.name.partition("-")[2]) >= windows for place in Path(run).glob("checkpoint-*"))

    assert process.wait_until(far_enough), process.wait()
    process.kill(signal.SIGINT)
    outcome = process.wait()
    assert outcome.code == 130, outcome
    for log in (process.out, process.err):
        log.unlink()


def write_runs() -> None:
    """Runs that were stopped in mid-document, one that follows its files, and one that was finished."""
    both = ["texts/a.txt", "texts/b.txt"]
    lora = ["--learn", "lora", "--rank", 2]
    stop("runs/adam", 9, *both, "--window", "cached", *GRID, "--freeze-embeddings", "--learning-rate", 2e-3)
    momentum = ["--rule", "sgd", "--momentum", 0.5, "--learning-rate", 0.1]
    stop("runs/momentum", 9, *both, *GRID, *lora, *momentum, "--cadence", "accumulate", "--every", 3)
    salient = ["--salience", "camels", "--salience-network", "salience"]
    stop("runs/salient", 9, *both, *GRID, "--learn", "norms", *salient)
    stop("runs/words", 9, *both, *GRID, "--learn", "norms", "--salience", "tfidf", "--reset", "document")
    rms = ["--rule", "rms", "--statistics", "statistics.safetensors", "--learning-rate", 1e-3, "--decay", 1e-2]
    stop("runs/rms", 9, *both, *GRID, "--learn", "norms", *rms)
    stop("runs/side", 9, "texts/several.jsonl", *GRID, *lora, "--batch", 2, "--reset", "document")
    mixture = ["--rule", "mixture", "--experts", "0,2e-3,sgd:0.1"]
    stop("runs/mixture", 9, *both, *GRID, "--learn", "norms", *mixture)
    finished = ["read", "texts/a.txt", *ALONE, *QUIET, *GRID, *lora, "--learning-rate", 1e-2]
    done(*finished, "--run", "runs/finished")
    stop("runs/onwards", 5, "texts/b.txt", *GRID, *lora, "--from", "runs/finished")
    done("read", "texts/several.jsonl", *ALONE, *QUIET, *GRID, *lora, "--follow", "--idle", 0, "--run", "runs/followed")


def write_homes() -> None:
    """Homes with snapshots and a document that was forgotten since one of them, in which it still is."""
    lora = ["--learn", "lora", "--rank", 2, "--target-modules", "q_proj,v_proj"]
    lora += ["--rule", "sgd", "--learning-rate", 0.1, "--momentum", 0.5]
    kinds = {
        "lora": [*lora, "--sources", "bm25", "--budget", 8],
        "dense": ["--learn", "none", "--sources", "dense", "bm25", "--budget", 8],
        "adam": ["--learn", "norms", "--window", "cached"],
        "mixture": ["--learn", "norms", "--rule", "mixture", "--experts", "0,2e-3,sgd:0.1"],
    }
    for name, settings in kinds.items():
        home = f"homes/{name}"
        done("home", "new", home, *ALONE, *GRID, *settings)
        done("home", "read", home, "texts/d0.jsonl", "texts/d1.jsonl")
        done("snapshot", "make", home, "early")
        done("home", "read", home, "texts/d2.jsonl", "texts/d3.jsonl")
        done("snapshot", "make", home, "late")
        done("home", "forget", home, "d2")
        done("home", "read", home, "texts/d4.jsonl", "--follow", "--idle", 0)
    bundled = ["--learn", "norms", "--sources", "bank", "--threads", 1]
    done("home", "new", "homes/bundled", *GRID, *bundled)
    done("home", "read", "homes/bundled", "texts/d0.jsonl", "texts/d1.jsonl")
    done("snapshot", "make", "homes/bundled", "early")


def write_trained() -> None:
    """What is trained beforehand, each stopped behind one step."""
    done("statistics", "texts/a.txt", *ALONE, *GRID, "--out", "statistics.safetensors")
    small = ["--steps", 1, "--check", 1, "--log", 1, "--stream", "texts/trained.jsonl"]
    done("train", "qa", *ALONE, *small, "--batch", 2, "--rank", 2, "--out", "reader")
    done("train", "salience", *ALONE, *small, "--documents", 2, "--longest", 24, "--hidden", 8, "--out", "salience")
    done("train", "bank", *ALONE, *small, *SHAPES, "--batch", 2, "--reader", "reader", "--out", "networks")
    for chart in Path("networks").glob("training.*"):
        chart.unlink()


def write_bank() -> None:
    """A bank with a forgotten document, whose vectors are still in their file."""
    bank = ["--bank", "bank"]
    some = [f"texts/d{number}.jsonl" for number in range(4)]
    done("bank", "add", *some, *bank, *ALONE, "--networks", "networks")
    done("bank", "forget", "d2", *bank)


def write_exports() -> None:
    """Folders for plain transformers and peft."""
    done("export", "runs/finished", "--to", "exports/peft", "--as", "peft")
    done("export", "runs/finished", "--to", "exports/huggingface", "--as", "huggingface")
    done("export", "exports/huggingface", "--to", "exports/low-rank", "--as", "low-rank", *ALONE, "--rank", 2)
    done("bank", "export", "What was it?", "--bank", "bank", *ALONE, "--networks", "networks", "--to", "exports/bank")


def write_studies() -> None:
    """What two studies leave in their --out."""
    done("study", "cadence", "--data", "data", "--out", "studies/claim", "--tokens", 1600, "--texts", 1)
    for page in (*Path("studies/claim").glob("*.html"), *Path("studies/claim").glob("*.png")):
        page.unlink()
    asked = ["--stream", "texts/questions.jsonl", "--documents", 4, "--memories", "none", "bm25", "bank"]
    done("study", "qa", *asked, *ALONE, "--networks", "networks", "--out", "studies/qa")


def write_expected() -> None:
    """What this version makes of the folders, in a copy of them, once they are no longer where they were written."""
    here, expected = Path.cwd().rename(f"{Path.cwd()}-moved"), {}
    for name, outcome_of in KINDS.items():
        with TemporaryDirectory() as place:
            copy = shutil.copytree(here, Path(place) / "v1")
            os.chdir(copy)
            expected[name] = outcome_of(say)
            os.chdir(here)
    text = json.dumps(expected, indent=1, ensure_ascii=False, allow_nan=False)
    Path("expected.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    Path(sys.argv[1]).mkdir(parents=True)
    os.chdir(sys.argv[1])
    write_model()
    write_texts()
    write_trained()
    write_runs()
    write_homes()
    write_bank()
    write_exports()
    write_studies()
    write_expected()
