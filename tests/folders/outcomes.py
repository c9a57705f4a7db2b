"""What a version makes of kept folders: resumed to the end, verified, restored, made to forget, asked.

Every function works in a copy of such folders, which is the current one, changes it, and gives what came out as JSON.
Models were recorded by their full path. A run goes on with the path as it was given; a home, and what starts from a
run, take the full one, so `moved` and `moved_home` write where the model is now, as whoever moves it has to.
"""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from driftlm.storage.checked_json import SEAL, read_sealed, write_sealed
from tests.support.running import Outcome

MODEL = "model"
TOTALS = ("tokens", "bytes", "nats", "static_nats", "updates", "rollbacks", "windows", "documents")
GRID = ["--context", 32, "--stride", 16, "--sink", 0]  # as then
QUIET = ["--no-live", "--no-report", "--json"]
QUESTION = "What was it?"
PROMPT = "the storm was here on the sea"

Say = Callable[..., Outcome]
Facts = dict[str, Any]


# ---- places ---------------------------------------------------------------------------------------------------------


def moved(run: Path) -> None:
    """Tell a run where its model is now."""
    config = json.loads((run / "config.json").read_bytes())
    config["model"]["name"] = str(Path(MODEL).resolve())
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")


def moved_home(home: Path) -> None:
    """Tell a home where its model is now, and seal that."""
    facts = read_sealed(home / "home.json")
    facts["model"]["name"] = str(Path(MODEL).resolve())
    write_sealed(home / "home.json", {name: value for name, value in facts.items() if name not in ("format", SEAL)})


# ---- runs -----------------------------------------------------------------------------------------------------------


def totals_of(summary: Facts) -> Facts:
    """What two equal runs say alike."""
    experts = {one["name"]: [one["nats_per_token"], one["weight"]] for one in summary.get("experts", ())}
    return {name: summary[name] for name in TOTALS} | ({"experts": experts} if experts else {})


def resumed(name: str, say: Say) -> Facts:
    """A stopped run, read to the end of its stream."""
    run = Path("runs", name)
    before = json.loads((next(run.glob("checkpoint-*")) / "values.json").read_bytes())
    totals = totals_of(say("read", "--resume", run, *QUIET).summary)
    lines = [json.loads(line) for line in (run / "windows.jsonl").read_text().splitlines()]
    assert len(lines) == totals["windows"] and sum(line["tokens"] for line in lines) == totals["tokens"]
    return {"from_window": before["totals"]["windows"], "in_document": before["progress"]["window"], **totals}


def onwards(say: Say) -> Facts:
    """A stopped run that had begun with what another learned."""
    moved(Path("runs/onwards"))
    return resumed("onwards", say)


def followed(say: Say) -> Facts:
    """A run that follows a file, to which a document is added; a copy of the file has another inode to be known by."""
    lines = [json.loads(line) for line in Path("runs/followed/followed.jsonl").read_text().splitlines()]
    lines = [line | {"mark": str(Path(line["file"]).stat().st_ino)} for line in lines]
    Path("runs/followed/followed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with Path("texts/several.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"id": "six", "text": "the ring was red", "date": "2001-06-01"}) + "\n")
    return totals_of(say("read", "--resume", "runs/followed", *QUIET).summary)


def finished(say: Say) -> Facts:
    """A finished run: read on from, generated with, exported."""
    moved(Path("runs/finished"))
    refusal = say("read", "--resume", "runs/finished")
    assert refusal.code == 2 and "is finished" in refusal.err, refusal
    more = ["--from", "runs/finished", "--learn", "lora", "--rule", "adam", *GRID, "--run", "next", *QUIET]
    onwards = say("read", "texts/b.txt", *more).summary
    text = say("generate", "the storm", "--from", "runs/finished", "--tokens", 8, "--temperature", 0)
    assert text.code == 0, text
    assert say("export", "runs/finished", "--to", "whole", "--as", "huggingface").code == 0
    return {"onwards": totals_of(onwards), "generated": text.out, "exported": plain_nats(Path("whole"))}


# ---- homes ----------------------------------------------------------------------------------------------------------


def entries(home: Path, say: Say) -> list[Any]:
    """What a home lists: id, time, tokens, and whether it is behind the present state."""
    listed = say("home", "ls", home, "--json").summary["documents"]
    return [[one["id"], one["time"], one["tokens"], one["active"]] for one in listed]


def whole(home: Path, say: Say) -> None:
    """Every byte of a home is as it was written."""
    assert say("snapshot", "verify", home, "--json").summary["problems"] == []


def snapshots(home: Path, say: Say) -> list[Any]:
    """Names, numbers of documents, and whether they hold what was forgotten since."""
    listed = say("snapshot", "ls", home, "--json").summary["snapshots"]
    return [[one["name"], one["documents"], one["document"], one["holds_forgotten"]] for one in listed]


def read_into(home: Path, document: str, say: Say) -> Facts:
    """One more document."""
    told = say("home", "read", home, document, "--json").summary
    return {name: told[name] for name in ("id", "tokens", "nats", "static_nats", "bits_per_byte") if name in told}


def holding(home: Path, text: bytes) -> list[Path]:
    """Files that a text is in."""
    return [path for path in home.rglob("*") if path.is_file() and text in path.read_bytes()]


def answered(home: Path) -> list[Any]:
    """The answer of a home with sources, and where it is from."""
    from driftlm.homes.opening import opened

    with opened(home) as place:
        answer = place.answer(QUESTION)
    return [answer.text, [list(one) for one in answer.documents]]


def home(name: str, say: Say) -> Facts:
    """A home: listed, read into, taken back to a snapshot, read into there, made to forget."""
    place = Path("homes", name)
    whole(place, say)  # before its model is found
    moved_home(place)
    found: Facts = {"entries": entries(place, say), "snapshots": snapshots(place, say)}
    differ = say("snapshot", "diff", place, "early", "late", "--json").summary
    found["changed"] = sum(one["norm"] ** 2 for one in differ["tensors"] if "parameters/" in one["tensor"]) ** 0.5
    found["read"] = read_into(place, "texts/d5.jsonl", say)
    found["early"] = say("snapshot", "restore", place, "early", "--json").summary["documents"]
    found["read_early"] = read_into(place, "texts/d5.jsonl", say)
    assert holding(place, b"mark1 ")
    forgotten = say("home", "forget", place, "d1", "--purge", "--json").summary
    assert not holding(place, b"mark1 ")
    found["forgotten"] = [forgotten["forgotten"], forgotten["held_by"]]
    found["left"] = [entries(place, say), snapshots(place, say)]
    whole(place, say)
    return found


def home_asked(name: str, say: Say) -> Facts:
    """A home with sources: as another, and asked, exported, and taken to a snapshot once it holds nothing forgotten."""
    place = Path("homes", name)
    moved_home(place)
    found: Facts = {"answer": answered(place)}
    assert say("export", place, "--to", "learned", "--as", "huggingface").code == 0
    found["exported"] = plain_nats(Path("learned"))
    refusal = say("snapshot", "restore", place, "late")
    assert refusal.code == 2 and "holds what was forgotten" in refusal.err, refusal
    found |= home(name, say)
    found["late"] = say("snapshot", "restore", place, "late", "--json").summary["documents"]
    return found | {"read_late": read_into(place, "texts/d2.jsonl", say), "answer_late": answered(place)}


def bundled(say: Say) -> Facts:
    """A home of the bundled model and networks, which are in this installation at another place."""
    place = Path("homes/bundled")
    whole(place, say)
    found = {"entries": entries(place, say), "read": read_into(place, "texts/d5.jsonl", say)}
    assert say("snapshot", "restore", place, "early").code == 0
    whole(place, say)
    return found | {"answer": answered(place)}


# ---- banks, and what is trained beforehand --------------------------------------------------------------------------


def bank(say: Say) -> Facts:
    """A bank: verified, asked, taught, made to forget, compacted, verified."""
    place, here = ["--bank", "bank"], ["--model", MODEL, "--networks", "networks"]

    def ask() -> list[Any]:
        told = say("ask", QUESTION, *place, *here, "--tokens", 6, "--json").summary
        return [told["answer"], told["nats"], {one["id"]: one["weight"] for one in told["documents"]}]

    def verified() -> None:
        assert say("bank", "verify", *place, "--json").summary["problems"] == []

    verified()
    listed = say("bank", "ls", *place, "--json").summary["documents"]
    found: Facts = {"documents": [[one["id"], one["time"], one["parts"]] for one in listed], "asked": ask()}
    found["text"] = json.loads(say("bank", "show", "d1", *place, "--json").out)["text"]
    assert say("bank", "add", "texts/d4.jsonl", *place, *here, "--json").summary["added"] == ["d4"]
    assert say("bank", "forget", "d0", *place).code == 0
    assert say("bank", "expire", "--before", 2002, *place, "--json").summary["forgotten"] == ["d1"]
    assert say("bank", "compact", *place).code == 0
    verified()
    assert len(list(Path("bank").glob("*.safetensors"))) == 1
    return found | {"asked_again": ask()}


def trained(say: Say) -> Facts:
    """Trainings that had stopped behind a step, gone on with; networks, reader and statistics, used."""
    more = ["--model", MODEL, "--threads", 1, "--steps", 2, "--check", 1, "--log", 1, "--stream", "texts/trained.jsonl"]
    shapes = ["--vectors", 2, "--encoder-width", 8, "--encoder-layers", 1, "--encoder-heads", 2, "--blocks", 1]
    shapes += ["--heads", 2, "--head-width", 4, "--key-width", 4, "--longest", 128]
    kinds = {
        "qa": ["--batch", 2, "--rank", 2, "--out", "reader"],
        "salience": ["--documents", 2, "--longest", 24, "--hidden", 8, "--out", "salience"],
        "bank": [*shapes, "--batch", 2, "--reader", "reader-before", "--out", "networks"],
    }
    shutil.copytree("networks/adapter", "reader-before")
    found: Facts = {}
    for kind, settings in kinds.items():
        outcome = say("train", kind, *more, *settings)
        assert outcome.code == 0 and "going on at step 1 of 2" in outcome.err, outcome
        lines = [json.loads(line) for line in Path(str(settings[-1]), "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2]
        found[kind] = {
            name: value for name, value in lines[-1].items() if isinstance(value, float) and name != "seconds"
        }
    rms = ["--rule", "rms", "--statistics", "statistics.safetensors", "--learning-rate", 1e-3, *GRID, "--run", "rms"]
    found["rms"] = totals_of(say("read", "texts/a.txt", "--model", MODEL, *rms, *QUIET).summary)
    return found


# ---- exports, studies -----------------------------------------------------------------------------------------------


def plain_nats(folder: Path) -> float:
    """Nats of a prompt by transformers and peft alone; an adapter's base is inside it, or the model beside it."""
    base = (
        folder if (folder / "config.json").exists() else folder / "base" if (folder / "base").exists() else Path(MODEL)
    )
    model = AutoModelForCausalLM.from_pretrained(str(base))
    if (folder / "adapter_config.json").exists():
        model = PeftModel.from_pretrained(model, str(folder))
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(PROMPT, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        logits = model.eval()(input_ids=ids).logits[0, :-1]
    return F.cross_entropy(logits.double(), ids[0, 1:], reduction="sum").item()


def exports(say: Say) -> Facts:
    """Exported folders, by plain transformers and peft, and as the start of another reading."""
    found: Facts = {name: plain_nats(Path("exports", name)) for name in ("peft", "huggingface", "low-rank", "bank")}
    for name in ("peft", "huggingface", "low-rank"):
        base = [] if name == "huggingface" else ["--model", MODEL]
        start = ["--from", f"exports/{name}", *base, "--learn", "lora", "--rule", "adam", "--rank", 2, *GRID]
        found[f"from {name}"] = totals_of(say("read", "texts/b.txt", *start, "--run", f"from-{name}", *QUIET).summary)
    return found


def claim(say: Say) -> Facts:
    """A study of a claim: its rows give the verdict, and stay when it goes on, which reads windows with a sink now."""
    from driftlm.studies.running import row_of
    from driftlm.studies.study import study_of

    lines = Path("studies/claim/cadence.jsonl").read_bytes()
    scale = ["--tokens", 1600, "--texts", 1, "--resume", "--json"]
    say("study", "cadence", "--data", "data", "--out", "studies/claim", *scale)
    assert Path("studies/claim/cadence.jsonl").read_bytes().startswith(lines)
    rows = [row_of(line) for line in lines.splitlines()]
    concluded = study_of("cadence").conclude(rows)
    bits = {row["setting"]: row["bits_per_byte"] for row in rows}
    return {"verdict": concluded.verdict, "sentence": concluded.sentence, "bits_per_byte": bits}


def answers(say: Say) -> list[Facts]:
    """The answers of a study, as a table again."""
    from driftlm.evaluation.paired import read, table_of

    columns = ("memory", "documents", "questions", "em", "f1", "nats", "recall", "f1_difference")
    return [{name: row[name] for name in columns} for row in table_of(read(Path("studies/qa")))]


STOPPED = ("adam", "momentum", "salient", "words", "rms", "side", "mixture")
KINDS: dict[str, Callable[[Say], Any]] = {
    **{f"run {name}": partial(resumed, name) for name in STOPPED},
    "run onwards": onwards,
    "run followed": followed,
    "run finished": finished,
    **{f"home {name}": partial(home_asked, name) for name in ("lora", "dense")},
    **{f"home {name}": partial(home, name) for name in ("adam", "mixture")},
    "home bundled": bundled,
    "bank": bank,
    "trained": trained,
    "exports": exports,
    "study claim": claim,
    "study qa": answers,
}
