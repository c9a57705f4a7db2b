"""A report says what windows.jsonl says: recomputed here from the lines, with nothing of the report's own code."""

import importlib
import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from driftlm.core.errors import DriftError
from driftlm.report.page import headline, title
from driftlm.report.tally import Tally
from driftlm.report.write import write_report
from tests.support.made_runs import CONFIG, long_stream, run_folder, stream, tally_of, weighed

pytestmark = pytest.mark.long


class Page(HTMLParser):
    """What a browser would make of a page: its text, its tags, its script data."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.tags, self.rows, self.scripts = html, [], [], []
        self.inside, self.text = "", ""
        self.feed(html)
        self.text = self.text.replace("\u00a0", " ")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.text += data
            if self.inside in ("td", "th"):
                self.rows[-1][-1] += data


@pytest.fixture
def drawn() -> None:
    """Skips where the `report` extra is not installed."""
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")


@pytest.fixture
def page_only(drawn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page as it is, without the second that every PNG takes."""
    monkeypatch.setattr("driftlm.report.charts.png", lambda spec, title, subtitle: b"\x89PNG")


def report(folder: Path) -> tuple[list[str], Page]:
    written = write_report(folder)
    return [path.name for path in written], Page((folder / "report.html").read_text(encoding="utf-8"))


# The numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("drawn")
def test_page_and_table_hold_the_numbers_of_the_lines(tmp_path: Path) -> None:
    lines = stream([1000, 200, 777], events=True)
    names, page = report(run_folder(tmp_path, lines))
    assert names == ["report.html", "bits_per_byte.png", "gain.png", "position.png"]
    tokens, size = sum(line["tokens"] for line in lines), sum(line["bytes"] for line in lines)
    static, nats = (sum(line[key] for line in lines) for key in ("static_nats", "nats"))
    said = f"Read {tokens:,} tokens ({size / 1000:.1f} kB); {static / size / math.log(2):.3f} → "
    said += (
        f"{nats / size / math.log(2):.3f} bits per byte, {100 * (1 - nats / static):.1f} % fewer bits than the static"
    )
    assert said in page.text
    rows = {row[0]: row for row in page.rows}
    for document in ("d0.txt", "d1.txt", "d2.txt"):
        own = [line for line in lines if line["document"] == document]
        own_size, own_static, own_nats = (sum(line[k] for line in own) for k in ("bytes", "static_nats", "nats"))
        assert rows[document] == [
            document,
            f"{sum(line['tokens'] for line in own):,}",
            f"{own_size:,}",
            f"{own_static / own_size / math.log(2):.3f}",
            f"{own_nats / own_size / math.log(2):.3f}",
            f"{100 * (1 - own_nats / own_static):+.1f} %",
        ]
    assert rows["rollback"][1] == "two windows above 9.31 nats per token"
    for png in names[1:]:
        assert (tmp_path / png).read_bytes().startswith(b"\x89PNG")
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.usefixtures("page_only")
def test_a_document_read_twice_in_a_row_has_two_rows(tmp_path: Path) -> None:
    lines = [line | {"document": "same"} for line in stream([300, 300])]
    _, page = report(run_folder(tmp_path, lines))
    assert [row[0] for row in page.rows].count("same") == 2


@pytest.mark.usefixtures("page_only")
def test_the_page_says_what_the_run_cost(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, stream([300]))
    summary = json.loads((folder / "summary.json").read_text())
    unknown = {"flops_per_token": None, "bytes_moved_per_token": None, "peak_memory_bytes": 731_000_000}
    (folder / "summary.json").write_text(json.dumps(summary | unknown))
    _, page = report(folder)
    assert "operations a token" not in page.text and "moved a token" not in page.text
    known = unknown | {"flops_per_token": 74_712_345.6, "bytes_moved_per_token": 1_318_400.4}
    (folder / "summary.json").write_text(json.dumps(summary | known))
    _, page = report(folder)
    said = " ".join(page.text.split())
    for key, value in (
        ("million operations a token", "74.7"),
        ("moved a token", "1.3 MB"),
        ("peak memory", "731 MB"),
        ("time", "12.5 s"),
    ):
        assert re.search(rf"{key} ?{re.escape(value)}", said), key


# What the sentence says ----------------------------------------------------------------------------------------------


def test_a_loss_is_said_plainly() -> None:
    said = headline(tally_of(stream([2000], gain=-0.2)))
    assert re.search(r"bits per byte: worse, \d+\.\d % more bits than the static model", said)
    assert "fewer" not in said


def test_no_difference_is_said_plainly() -> None:
    lines = [line | {"static_nats": line["nats"]} for line in stream([2000])]
    assert headline(tally_of(lines)).endswith(", 0.0 % fewer bits than the static model.")


def test_a_text_too_short_to_show_a_gain_says_so(tmp_path: Path) -> None:
    lines = stream([2000], gain=-0.2)[:2]
    said = headline(tally_of(lines))
    assert said.endswith(" The text is too short to show a gain: 2 windows, and at least 8 are needed.")
    assert "more bits" in said and "harm" not in said
    assert "too short" not in headline(tally_of(stream([2000])))
    assert "too short" in report(run_folder(tmp_path, lines))[1].text


def test_the_legend_has_lines_and_the_static_one_lies_above() -> None:
    charts = importlib.import_module("driftlm.report.charts")
    layers = charts.bits_chart(tally_of(stream([200])), 640)["layer"]  # few points, each with a dot
    folds = [one["fold"] for layer in layers for one in layer.get("transform", ()) if "fold" in one]
    assert folds == [["adapted_local", "static_local"], ["adapted", "static"]]
    colours = [layer["encoding"]["color"] for layer in layers if "color" in layer["encoding"]]
    assert len(colours) == 2 and all(one["legend"]["symbolType"] == "stroke" for one in colours)
    # Area of a symbol: a filled one no higher than the label.
    assert charts.theme()["legend"]["symbolSize"] <= charts.theme()["legend"]["labelFontSize"] ** 2


@pytest.mark.usefixtures("page_only")
def test_a_loss_shows_on_the_page(tmp_path: Path) -> None:
    _, page = report(run_folder(tmp_path, stream([2000], gain=-0.2)))
    assert ("p", {"class": "headline loss"}) in page.tags
    assert "Learning did harm" in page.text


def test_title_names_files_and_model() -> None:
    assert title(CONFIG, Tally()) == "a.txt, read by tiny"
    named = {"stream": {"files": ["a", "b", "c", "d"]}, "model": {"name": "/x/y", "title": "the bundled model"}}
    assert title(named, Tally()) == "a, b and 2 more, read by the bundled model"
    assert title({}, tally_of(stream([50]))) == "d0.txt, read by an unnamed model"


# Runs that are not as they should be ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("page_only")
def test_without_static_model(tmp_path: Path) -> None:
    names, page = report(run_folder(tmp_path, stream([2000, 100], static=False)))
    assert names == ["report.html", "bits_per_byte.png"]
    assert "no static model was run beside it" in page.text
    assert "fewer" not in page.text and "gain" not in page.text.lower()
    assert list(json.loads(page.scripts[0])["charts"]) == ["bits_per_byte"]


@pytest.mark.usefixtures("page_only")
@pytest.mark.parametrize("windows", [0, 1, 2, 40])
def test_unfinished_run_with_a_line_cut_short(tmp_path: Path, windows: int) -> None:
    lines = stream([10_000])
    folder = run_folder(tmp_path, lines[:windows], finished=False)
    with (folder / "windows.jsonl").open("a") as file:
        file.write(json.dumps(lines[windows])[:60])
    names, page = report(folder)
    assert f"not finished: {windows:,} windows so far" in page.text
    assert (f"So far, read {windows * 128:,} tokens" if windows else "Nothing has been scored yet") in page.text
    assert len(names) == (4 if windows else 1)


@pytest.mark.usefixtures("drawn")
def test_scores_that_are_not_finite_are_left_out_and_said(tmp_path: Path) -> None:
    lines = stream([3000])
    broken = [line | {"nats": math.nan} if i == 5 else line for i, line in enumerate(lines)]
    broken = [line | {"nats": math.inf} if i == 6 else line for i, line in enumerate(broken)]
    _, page = report(run_folder(tmp_path, broken))
    assert "2 windows (256 tokens) had no finite score: the model diverged" in page.text
    rest = lines[:5] + lines[7:]
    assert f"{sum(line['nats'] for line in rest) / sum(line['bytes'] for line in rest) / math.log(2):.3f}" in page.text
    data = page.scripts[0]
    json.loads(data, parse_constant=lambda name: pytest.fail(f"{name} in the charts"))
    assert not re.search(r"\b(nan|inf|infinity)\b", page.text, re.IGNORECASE)


@pytest.mark.usefixtures("page_only")
def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(DriftError, match=r"config\.json does not exist; give the folder of a driftlm run"):
        write_report(tmp_path)


@pytest.mark.parametrize("package", ["altair", "vl_convert"])
def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    pytest.importorskip("altair") if package == "vl_convert" else None
    monkeypatch.delitem(sys.modules, "driftlm.report.charts", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        DriftError, match=re.escape(f'{package}, which is not installed; run: pip install "driftlm[rep')
    ):
        write_report(run_folder(tmp_path, stream([300])))


# Mixtures ------------------------------------------------------------------------------------------------------------

MIXTURE = CONFIG | {"learning": {"rule": "mixture", "experts": "1e-3,0,sgd:0.05"}}


def mixture_run(folder: Path, leaders: list[int], finished: bool = True) -> Path:
    folder = run_folder(folder, weighed(stream([1000]), leaders), finished, MIXTURE)
    if finished:
        names = zip(["adam:0.001", "adam:0", "sgd:0.05"], [3.125, 3.5, 3.25], [0.7, 0.1, 0.2], strict=True)
        experts = [{"name": name, "nats_per_token": nats, "weight": weight} for name, nats, weight in names]
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps(summary | {"experts": experts}))
    return folder


@pytest.mark.usefixtures("page_only")
def test_a_mixture_shows_which_expert_won_and_where(tmp_path: Path) -> None:
    names, page = report(mixture_run(tmp_path, [2, 0]))
    assert names == ["report.html", "bits_per_byte.png", "gain.png", "position.png", "experts.png"]
    weight = json.loads((tmp_path / "windows.jsonl").read_text().splitlines()[-1])["weights"][0]
    said = f"adam:0.001 won, with a weight of {weight:.3f}; the lead changed once: after 640 tokens, from sgd:0.05."
    assert said in page.text
    start = page.rows.index(["expert", "nats per token", "final weight"])
    assert page.rows[start + 1 : start + 4] == [  # by rate
        ["adam:0", "3.5000", "0.100"],
        ["adam:0.001", "3.1250", "0.700"],
        ["sgd:0.05", "3.2500", "0.200"],
    ]
    spec = json.loads(page.scripts[0])["charts"]["experts"]
    (areas,) = [layer for layer in spec["layer"] if layer["mark"]["type"] == "area"]
    assert areas["encoding"]["color"]["scale"]["domain"] == ["adam:0", "adam:0.001", "sgd:0.05"]
    rows = max(spec["datasets"].values(), key=len)
    assert len(rows) == 9 and all(row["w00"] + row["w01"] + row["w02"] == pytest.approx(1) for row in rows)
    assert rows[-1]["w01"] == pytest.approx(weight) and rows[-1]["leader"] == "adam:0.001"


@pytest.mark.usefixtures("drawn")
def test_the_weights_of_experts_are_drawn(tmp_path: Path) -> None:
    write_report(mixture_run(tmp_path, [1, 2, 0]))
    assert (tmp_path / "experts.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("page_only")
@pytest.mark.parametrize(
    ("leaders", "said"),
    [([0], r"adam:0.001 leads so far, with a weight of 0\.\d+; it led from the start"), ([2, 1, 2], "changed 2 times")],
)
def test_a_mixture_that_is_not_finished(tmp_path: Path, leaders: list[int], said: str) -> None:
    _, page = report(mixture_run(tmp_path, leaders, finished=False))
    assert re.search(said, page.text) and "final weight" not in page.text


@pytest.mark.usefixtures("page_only")
def test_other_experts_than_those_of_the_settings_are_refused(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, weighed(stream([300]), [0], experts=4), config=MIXTURE)
    with pytest.raises(DriftError, match=r"config\.json names other experts than windows\.jsonl weighs"):
        write_report(folder)


# The page as a file --------------------------------------------------------------------------------------------------

NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'\u2028"


@pytest.mark.usefixtures("page_only")
def test_ids_messages_and_settings_cannot_become_markup(tmp_path: Path) -> None:
    lines = stream([1500, 300], events=True)
    for line in lines:
        line["document"] += NASTY
    lines[0] |= {"time": NASTY, "events": [{"kind": NASTY, "message": NASTY}]}
    config = CONFIG | {"options": {NASTY: NASTY}, "model": {"name": "m" + NASTY}, "command": NASTY}
    _, page = report(run_folder(tmp_path, lines, config=config))
    kinds = [tag for tag, _ in page.tags]
    assert kinds.count("script") == 2 and "img" not in kinds
    assert len(page.scripts) == 2 and json.loads(page.scripts[0])["charts"].keys() == {
        "bits_per_byte",
        "gain",
        "position",
    }
    assert [row for row in page.rows if row and row[0] == "d0.txt" + NASTY]
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)


@pytest.mark.usefixtures("page_only")
def test_half_characters_and_endless_ids_are_written(tmp_path: Path) -> None:
    lines = stream([300])
    for line in lines:
        line["document"] = "\udc80" + "x" * 10_000
    _, page = report(run_folder(tmp_path, lines))
    (row,) = [row for row in page.rows if row and row[0].startswith("?xxx")]
    assert len(row[0]) == 200 and " … " in row[0]


@pytest.mark.usefixtures("page_only")
def test_the_page_fetches_nothing(tmp_path: Path) -> None:
    _, page = report(run_folder(tmp_path, stream([1500])))
    fetching = {"src", "href", "srcset", "data", "action", "poster", "background"}
    assert not [(tag, attributes) for tag, attributes in page.tags if fetching & attributes.keys()]
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "embed", "base", "form")]
    assert "url(" not in page.html.split("</style>")[0] and "@import" not in page.html.split("</style>")[0]
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'") and "http" not in policy
    specs = json.loads(page.scripts[0])["charts"]
    assert '"url"' not in json.dumps(specs)
    assert "prefers-color-scheme" in page.scripts[1] and len(page.scripts[1]) > 500_000  # Vega itself is in there
    assert "</script" not in page.scripts[1].lower()
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags


@pytest.mark.usefixtures("page_only")
def test_writing_again_replaces_and_a_full_folder_is_said(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, stream([300], static=False))
    (first, _), again = write_report(folder), write_report(folder)
    assert again[0] == first
    first.unlink()
    first.mkdir()
    with pytest.raises(DriftError, match="cannot be written"):
        write_report(folder)


# Long streams --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("page_only")
def test_rows_beyond_the_first_are_counted(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, [])
    long_stream(folder / "windows.jsonl", 60_000)
    _, page = report(folder)
    assert "The first 500 documents are shown; 2,500 more are in the sums above." in page.text
    assert "The first 200 events are shown; 400 more are counted above." in page.text
    for spec in json.loads(page.scripts[0])["charts"].values():
        assert all(len(rows) <= 1001 for rows in spec["datasets"].values())
