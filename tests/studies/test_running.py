"""A study: killed and resumed it ends as one that was never stopped, and its rows alone give its verdict."""

import json
import os
import shutil
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from driftlm.core.errors import DriftError
from driftlm.studies import running
from driftlm.studies.cells import Cell
from driftlm.studies.page import results, write_page
from driftlm.studies.settings import ClaimStudy
from driftlm.studies.study import STUDIES, Chart, study_of
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
