"""A study: killed and resumed it ends as one that was never stopped, and its rows alone give its verdict."""

import json
import os
import shutil
import subprocess
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from driftlm.core.errors import DriftError
from driftlm.memories.weights.learning import DEFAULT_RATES, Learning
from driftlm.models.loading import load
from driftlm.streams.windows import Windows
from driftlm.studies import running
from driftlm.studies.cells import Cell
from driftlm.studies.page import results, write_page
from driftlm.studies.settings import ClaimStudy
from driftlm.studies.study import STUDIES, Chart, Study, study_of
from tests.support import working
from tests.support.running import driftlm, refused, start, tiny_model, words, written

pytestmark = pytest.mark.long

needs_drawing = pytest.mark.skipif(find_spec("altair") is None, reason="the report extra is not installed")
ELSEWHERE = {"command", "date"}  # what two equal runs differ in


def ran(count: int, model: Path, folder: Path, out: Path, **settings: Any) -> dict[str, Any]:
    study = working.study(count, str(model))
    claim = ClaimStudy(str(folder), str(out), workers=2, **settings)
    return running.run(study, claim, measure=working.noted)


def test_a_killed_study_resumes_and_no_finished_reading_is_run_again(tmp_path: Path) -> None:
    model, count = tiny_model(tmp_path), 24
    written(tmp_path, a=words(5))
    out, data = tmp_path / "out", tmp_path
    begun = [str(count), str(model), str(data), str(out)]
    lines = out / "online.jsonl"

    process = start(tmp_path, "tests.support.working:begin", *begun)
    assert process.wait_until(lambda: lines.exists() and lines.read_bytes().count(b"\n") >= 4), process.wait().err
    process.kill()
    process.wait()
    time.sleep(0.5)  # its workers end with it
    first = working.calls(data)
    assert len(first) < count and not (out / "online.json").exists()

    content = lines.read_bytes()
    lines.write_bytes(content[:-20])  # the last line was not whole on disk
    kept = {json.loads(line)["setting"] for line in lines.read_bytes().splitlines()[:-1]}
    assert len(kept) >= 3
    resumed = ran(count, model, data, out, resume=True)
    again = working.calls(data)[len(first) :]
    assert not kept & set(again) and len(again) == len(set(again)) == count - len(kept)

    whole = ran(count, model, data, tmp_path / "whole")
    assert {k: v for k, v in resumed.items() if k not in ELSEWHERE} == {
        k: v for k, v in whole.items() if k not in ELSEWHERE
    }
    assert json.loads((out / "online.json").read_bytes()) == resumed
    measured = len(working.calls(data))
    assert ran(count, model, data, out, resume=True)["rows"] == whole["rows"]  # what was written is whole again
    assert len(working.calls(data)) == measured


def test_workers_end_with_the_study_that_is_killed(tmp_path: Path) -> None:
    process = start(tmp_path, "tests.support.working:begin_endless", tmp_path)
    worker = tmp_path / "worker"
    assert process.wait_until(lambda: worker.exists() and worker.read_text() != "")
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while alive(int(worker.read_text())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(int(worker.read_text()))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_rows_alone_give_the_verdict_again(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    written(tmp_path, a=words(5))
    result = ran(7, model, tmp_path, tmp_path / "out")
    assert result["verdict"] == "supported" and result["figures"] == {"mean": pytest.approx(2.3)}
    stored = json.loads((tmp_path / "out" / "online.json").read_bytes())["rows"]
    found = working.study(7, str(model)).conclude(stored)
    assert (found.verdict, found.sentence) == (result["verdict"], result["sentence"])
    again = ran(7, model, tmp_path, tmp_path / "out", resume=True)
    assert again["rows"] == result["rows"] and len(working.calls(tmp_path)) == 7


def test_a_larger_scale_measures_only_what_is_new(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    written(tmp_path, a=words(5))
    ran(3, model, tmp_path, tmp_path / "out")
    result = ran(11, model, tmp_path, tmp_path / "out", resume=True)
    assert [row["setting"] for row in result["rows"]] == [str(number) for number in range(11)]
    assert sorted(map(int, working.calls(tmp_path))) == list(range(11))
    assert result["verdict"] == "not supported"


def test_a_changed_text_or_model_is_measured_anew(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    written(tmp_path, a=words(5))
    ran(2, model, tmp_path, tmp_path / "out")
    written(tmp_path, a=words(6))
    ran(2, model, tmp_path, tmp_path / "out", resume=True)
    assert len(working.calls(tmp_path)) == 4
    moved = shutil.copytree(model, tmp_path / "moved")
    ran(2, moved, tmp_path, tmp_path / "out", resume=True)  # the same model at another place
    assert len(working.calls(tmp_path)) == 4
    ran(2, tiny_model(tmp_path, "qwen"), tmp_path, tmp_path / "out", resume=True)
    assert len(working.calls(tmp_path)) == 6


def test_what_a_key_depends_on(tmp_path: Path) -> None:
    written(tmp_path, a=words(5))
    one = Cell("x", ("a.txt",), 10)
    keys = {one.key(tmp_path, "f"), Cell("x", ("a.txt",), 10, seed=1).key(tmp_path, "f"), one.key(tmp_path, "g")}
    assert len(keys) == 3 and Cell("x", ("a.txt",), 10, model="there").key(tmp_path, "f") in keys
    with pytest.raises(DriftError, match="b.txt: No such file.*`ClaimStudy.data`"):
        Cell("x", ("b.txt",), 10).key(tmp_path, "f")


def test_rows_written_before_there_were_dtypes_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a text")
    learning = Learning("lora", rule="adam", learning_rate=1e-3)
    one = Cell("x", ("a.txt",), 10, Windows("cached", 64, 32), learning)
    assert one.key(tmp_path, "f") == "02de6f74884ca05dea2b48173921057513a50d854def65627f279bc83a0b752c"
    others = {replace(one, dtype="bfloat16"), replace(one, hindsight=1, rate=1e-3)}
    assert len({one.key(tmp_path, "f"), *(other.key(tmp_path, "f") for other in others)}) == 3


# --------------------------------------------------------------------------------------------- what of a study is run


def asked(study: Study, folder: Path, **settings: Any) -> list[Cell]:
    return running.chosen(study, ClaimStudy(str(folder), "out", **settings), folder)


def test_every_reading_of_a_study_is_by_the_model_that_was_named(tmp_path: Path) -> None:
    readings = asked(working.study(3, ""), tmp_path, model="there", dtype="bfloat16")
    assert {(one.model, one.dtype) for one in readings} == {("there", "bfloat16")}
    both = asked(study_of("controls"), tmp_path, models=("there", ""))
    assert [one.model for one in both[:2]] == ["there", "there"] and {one.model for one in both} == {"there", ""}
    assert {one.model for one in asked(study_of("controls"), tmp_path, model="there")} == {"there"}
    with pytest.raises(
        DriftError, match="models` named 2, and the study online reads with one; give `ClaimStudy.model`"
    ):
        asked(study_of("online"), tmp_path, models=("a", "b"))
    with pytest.raises(DriftError, match="give one of the two"):
        ClaimStudy("data", "out", model="a", models=("b",))


def test_rows_hold_the_rate_that_was_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, a=words(5))
    study = replace(working.study(1, ""), readings=lambda scale: [Cell("x", ("a.txt",), 10)])
    (before,) = asked(study, tmp_path)
    assert before.learning.learning_rate == Learning().rate()
    monkeypatch.setitem(DEFAULT_RATES, "relative", 2 * Learning().rate())
    (after,) = asked(study, tmp_path)
    assert after.key(tmp_path, "f") != before.key(tmp_path, "f")
    (mixed,) = asked(
        replace(study, readings=lambda scale: [Cell("x", ("a.txt",), 10, learning=Learning(rule="mixture"))]), tmp_path
    )
    assert mixed.learning == Learning(rule="mixture")


def test_settings_are_chosen_by_patterns(tmp_path: Path) -> None:
    assert [one.setting for one in asked(working.study(12, ""), tmp_path, settings=("1?", "3"))] == ["3", "10", "11"]
    with pytest.raises(DriftError, match="`ClaimStudy.settings` matched none.*they are: 0, 1, 2"):
        asked(working.study(3, ""), tmp_path, settings=("rank *",))


def test_texts_that_not_every_folder_has_are_left_out_where_they_are_not(tmp_path: Path) -> None:
    names = {one.text for one in asked(study_of("online"), tmp_path)}
    (tmp_path / "drift").mkdir()
    (tmp_path / "drift" / "peps_2025_even.jsonl").touch()
    assert {one.text for one in asked(study_of("online"), tmp_path)} - names == {"peps_2025_even"}


def test_a_folder_holds_a_study_of_one_model(tmp_path: Path) -> None:
    written(tmp_path, a=words(5))
    (tmp_path / "out").mkdir()
    row = working.row_of(working.many(1)[0]) | {"key": "k", "fingerprint": "another"}
    (tmp_path / "out" / "online.jsonl").write_text(json.dumps(row) + "\n")
    model = tiny_model(tmp_path)
    with pytest.raises(DriftError, match="holds readings of another model; give every model"):
        ran(2, model, tmp_path, tmp_path / "out", resume=True)
    assert not working.calls(tmp_path)
    several = replace(working.study(2, str(model)), several=True)
    claim = ClaimStudy(str(tmp_path), str(tmp_path / "out"), workers=1, resume=True)
    assert len(running.run(several, claim, measure=working.noted)["rows"]) == 2


def test_a_study_stops_after_its_hours_and_concludes_from_whole_texts(tmp_path: Path) -> None:
    written(tmp_path, a=words(5), b=words(6))
    study = working.study(2, str(tiny_model(tmp_path)), texts=("a.txt", "b.txt"))
    lines, out = tmp_path / "out" / "online.jsonl", str(tmp_path / "out")

    def stopped(hours: float) -> dict[str, Any]:
        claim = ClaimStudy(str(tmp_path), out, workers=1, resume=True, limit_hours=hours)
        return running.run(study, claim, measure=working.noted)

    at_once = stopped(1e-9)
    assert (at_once["verdict"], at_once["rows"], at_once["missing"]) == ("undecided", [], 4)
    assert at_once["sentence"] == "Unfinished, 0 of 2 texts: too few to conclude anything."
    whole = stopped(1.0)
    assert (
        whole["missing"] == 0
        and len(whole["rows"]) == 4
        and whole["models"] == {str(tmp_path / "llama"): load(tmp_path / "llama").fingerprint}
    )
    lines.write_bytes(b"".join(lines.read_bytes().splitlines(keepends=True)[:3]))  # as if it had been stopped there
    partly = stopped(1e-9)
    assert [row["text"] for row in partly["rows"]] == ["a", "a"] and partly["missing"] == 1
    assert partly["sentence"] == "Unfinished, 1 of 2 texts: The mean is 2.050." and partly["verdict"] == "supported"
    assert len(lines.read_bytes().splitlines()) == 3  # what was measured is kept
    assert {key: one for key, one in stopped(1.0).items() if key not in ELSEWHERE} == {
        key: one for key, one in whole.items() if key not in ELSEWHERE
    }
    with pytest.raises(DriftError, match="`ClaimStudy.limit_hours` was 0"):
        ClaimStudy("data", "out", limit_hours=0)


def test_where_a_result_comes_from(tmp_path: Path) -> None:
    written(tmp_path, a=words(5))
    result = ran(2, tiny_model(tmp_path), tmp_path, tmp_path / "out")
    assert result["seeds"] == [0] and result["scale"]["tokens"] == 20_000
    assert result["machine"]["cores"] >= 1 and result["versions"]["torch"]
    if (running.REPOSITORY / ".git").exists():
        head = ["git", "-C", str(running.REPOSITORY), "rev-parse", "HEAD"]
        assert result["commit"].rstrip("+") == subprocess.run(head, capture_output=True, text=True).stdout.strip()


def test_rows_that_are_no_rows_are_named(tmp_path: Path) -> None:
    (tmp_path / "online.jsonl").write_text('{"key": "a", "nats": 1}\nnonsense\n{"key": "b"}\n')
    with pytest.raises(DriftError, match="online.jsonl, line 2 is no row"), running.appended(tmp_path / "online.jsonl"):
        pass


def test_bad_settings_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    common = ["study", "online", "--data", data, "--out", out]
    refused(driftlm(capsys, *common), "--data", "is no folder")
    data.mkdir()
    refused(driftlm(capsys, *common, "--tokens", 0), "--tokens was 0")
    refused(driftlm(capsys, *common, "--workers", -1), "--workers was -1")
    refused(driftlm(capsys, *common), "No such file", "--data")
    assert not out.exists()
    out.mkdir()
    (out / "online.jsonl").touch()
    refused(driftlm(capsys, *common), "--resume")
    refused(driftlm(capsys, "study"), "which")


def test_every_study_has_its_name_and_a_verb() -> None:
    from driftlm.cli.study import CLAIMS

    assert list(CLAIMS) == list(STUDIES)
    assert all(study_of(name).name == name for name in STUDIES)
    with pytest.raises(DriftError, match="no study 'nothing'"):
        study_of("nothing")


# ------------------------------------------------------------------------------------------------------------ the page


@needs_drawing
def test_the_page_says_claims_verdicts_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from driftlm.studies import page

    written(tmp_path, a=words(5))
    model = tiny_model(tmp_path)
    ran(11, model, tmp_path, tmp_path / "out")
    monkeypatch.setattr(page, "study_of", lambda name: working.study(11, str(model)))
    html, image = write_page(tmp_path / "out")
    assert image.name == "online-means.png" and image.read_bytes().startswith(b"\x89PNG")
    text = html.read_text()
    for said in ("They are below 2.5.", "nobody 2020, section 1", "The mean is 2.500", 'id="online-means"', "2.5</td>"):
        assert said in text, said
    assert 'class="headline loss"' in text  # the verdict is against the claim
    assert "http://" not in text.split("<script")[0] and "src=" not in text.split("<script")[0]


@needs_drawing
def test_a_study_that_concluded_nothing_yet_has_no_charts(tmp_path: Path) -> None:
    written(tmp_path, a=words(5))
    claim = ClaimStudy(str(tmp_path), str(tmp_path / "out"), limit_hours=1e-9)
    running.run(working.study(2, str(tiny_model(tmp_path))), claim)
    (page,) = write_page(tmp_path / "out")
    assert "Unfinished, 0 of 1 texts" in page.read_text()


@needs_drawing
def test_report_writes_the_page_of_studies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(driftlm(capsys, "report", tmp_path), "no run")
    (tmp_path / "online.json").write_text("{}")
    refused(driftlm(capsys, "report", tmp_path), "online.json", "--resume")


def test_several_views_keep_their_widths() -> None:
    from driftlm.studies.page import at_width

    assert at_width(Chart("a", "", "", {"mark": "bar", "width": 3}), 760)["width"] == 760
    assert "width" not in at_width(Chart("a", "", "", {"hconcat": []}), 760)


def test_no_result_is_no_study(tmp_path: Path) -> None:
    assert results(tmp_path) == []
    os.mkdir(tmp_path / "online")
    assert results(tmp_path) == []
