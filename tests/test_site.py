"""The documentation site: examples run as they stand, what is made from the program is whole, links lead somewhere."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import pages
from tests.support.pages import (
    agrees,
    commands,
    commands_shown,
    environment_of,
    follow,
    forked_programs,
    missing_in,
    real_programs,
)

pytest.importorskip("fastapi", reason="needs the extra serve")
documentation = pytest.importorskip("recipes.documentation")

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
FOLLOWED = [page for page in DOCS if any(step.command for step in pages.steps(page.read_text(encoding="utf-8")))]
by_page = pytest.mark.parametrize("page", FOLLOWED, ids=[page.stem for page in FOLLOWED])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of the site, written."""
    out = tmp_path_factory.mktemp("build")
    documentation.write_pages(out)
    return out


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for packages that pages install, beside a clone."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "driftlm").symlink_to(ROOT)
    return folder / "site"


@pytest.fixture(scope="module")
def forked(site: Path) -> Iterator[Path]:
    with forked_programs(site) as programs:
        yield programs


@pytest.fixture(scope="module")
def real(site: Path) -> Iterator[Path]:
    with real_programs(site) as programs:
        yield programs


# ---------------------------------------------------------------------------------------------- examples of the pages


def followed(page: Path, programs: Path, site: Path, mode: str) -> None:
    for program in ("bash", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    folder = site.parent / f"{mode} {page.stem}"
    folder.mkdir()
    wrong = follow(page.read_text(encoding="utf-8"), folder, environment_of(programs, site))
    assert not wrong, "\n\n".join(wrong)


@by_page
def test_the_examples_of_a_page_do_what_it_shows(
    page: Path, forked: Path, site: Path, request: pytest.FixtureRequest
) -> None:
    # What is forked has looked for other packages before, and would not find the one that this page installs.
    programs = request.getfixturevalue("real") if page.stem == "add-a-memory" else forked
    followed(page, programs, site, "forked")


@pytest.mark.slow
@by_page
def test_the_examples_of_a_page_run_with_the_installed_programs(page: Path, real: Path, site: Path) -> None:
    followed(page, real, site, "real")


def test_every_block_of_a_page_is_run_or_shown_by_the_readme_or_its_commands_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in DOCS:
        text = page.read_text(encoding="utf-8")
        for kind, title, block in pages.FENCE.findall(text):
            if kind in ("sh", "bash"):  # what installs, which CI does; and what takes long
                for line in block.splitlines():
                    called = list(commands_shown(f"```sh\n{line}\n```\n"))
                    named = any(re.match(r"driftlm |python -m recipes", command) for command in called)
                    assert line in readme or (named and not any(map(missing_in, called))), f"{page.name}: {line}"
            elif not title:
                assert kind in ("console", "python", "text"), f"{page.name} has a block of {kind} that nothing checks"
        assert text.count("\n```") == 2 * len(pages.FENCE.findall(text)), f"{page.name} has a block that is not read"


def test_a_page_that_shows_something_else_is_found_out(tmp_path: Path, forked: Path) -> None:
    page = '```text title="a.txt"\none\n```\n\n```console\n$ cat a.txt\ntwo\n$ wc -l < a.txt\n1\n```\n'
    (wrong,) = follow(page, tmp_path, environment_of(forked, tmp_path / "site"))
    assert "$ cat a.txt" in wrong and "printed:\none\n" in wrong
    failing = "```console\n$ false\n$ echo never\nnever\n```\n"
    (wrong,) = follow(failing, tmp_path, environment_of(forked, tmp_path / "site"))
    assert "[exit 1]" in wrong


def test_numbers_may_differ_a_little_and_words_may_not() -> None:
    assert agrees("a 1.00 b …\n…\nend", "a 1.01 b c\nd\ne\nend")
    assert agrees("", "") and not agrees("", "something")
    for printed in ("a 1.03 b c\nend", "a 1.00 B c\nend", "a 1.00 b c\nend\nmore", "a 1 b c\nend"):
        assert not agrees("a 1.00 b …\n…\nend", printed)
    assert [step.command for step in commands("$ one \\\n  two\nsaid\n$ three\n")] == ["one \\\n  two", "three"]


# ------------------------------------------------------------------------------------------------------ pages made


def test_the_command_line_pages_hold_every_verb_and_every_flag(made: Path) -> None:
    from driftlm.cli.main import GROUPS, VERBS

    index = (made / "docs" / "cli" / "index.md").read_text(encoding="utf-8")
    navigation = (made / "mkdocs.yml").read_text(encoding="utf-8")
    for verb in VERBS:
        page = (made / "docs" / "cli" / f"{verb}.md").read_text(encoding="utf-8")
        assert f"- cli/{verb}.md\n" in navigation
        for name in [f"{verb} {one}" for one in GROUPS[verb]] if verb in GROUPS else [verb]:
            assert f"`driftlm {name}`" in index
            part = page.split(f"# driftlm {name}\n")[1].split("\n## ")[0]
            flags = set(re.findall(r"^│ (--[a-z0-9-]+)", documentation.help_text(name), re.MULTILINE))
            assert set(re.findall(r"^\| `(--[a-z0-9-]+)`", part, re.MULTILINE)) == flags
            assert flags or name in ("report", "doctor")


def test_defaults_of_the_command_line_pages_are_those_of_the_settings() -> None:
    from driftlm.streams.windows import Windows

    page = documentation.verb_pages()["read"]
    (row,) = re.findall(r"^\| `--context` \|.*", page, re.MULTILINE)
    assert row.startswith(f"| `--context` | INT | `{Windows().context}` | Let a new token depend on so many tokens")
    (row,) = re.findall(r"^\| `--window` \|.*", page, re.MULTILINE)
    assert row.startswith("| `--window` | `overlapping`, `cached` | `overlapping` |")


def test_the_page_of_the_server_holds_every_route_with_its_fields(made: Path) -> None:
    from driftlm.serving.schemas import ReadRequest, RestoreRequest
    from recipes.documented_routes import sent

    page = (made / "docs" / "http.md").read_text(encoding="utf-8")
    schema, _ = sent()
    routes = [f"{method.upper()} {path}" for path, methods in schema["paths"].items() for method in methods]
    assert re.findall(r"^## ((?:GET|POST|DELETE|PUT) .*)$", page, re.MULTILINE) == routes and len(routes) > 12
    for route, model in (("POST /v1/read", ReadRequest), ("POST /v1/snapshots/restore", RestoreRequest)):
        part = page.split(f"## {route}\n")[1].split("\n## ")[0]
        assert all(f"| `{field}` |" in part for field in model.model_fields)


def test_the_page_of_names_holds_every_public_one(made: Path) -> None:
    import driftlm

    page = (made / "docs" / "api.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == driftlm.__all__
    assert page.count("```") % 2 == 0


def test_the_page_of_the_house_shows_every_module_in_its_part(made: Path) -> None:
    page = (made / "docs" / "house.md").read_text(encoding="utf-8")
    package = ROOT / "driftlm"
    for path in sorted(package.glob("*/**/*.py")):
        heading = path.parent.relative_to(package).as_posix()
        part = re.split(r"^##", re.split(rf"^###? {heading}$", page, flags=re.MULTILINE)[1], flags=re.MULTILINE)[0]
        said = documentation.sentence(path)
        assert said
        if path.name == "__init__.py":
            assert documentation.escaped(said) in part, path
        else:
            assert f"| `{path.name}` | {documentation.escaped(said)} |" in part, path
    parts = re.findall(r"^## (.*)$", page, flags=re.MULTILINE)
    assert parts == list(documentation.layers()) and len(parts) > 10


def test_every_page_stands_in_the_navigation(made: Path) -> None:
    navigation = (made / "mkdocs.yml").read_text(encoding="utf-8")
    for page in written_pages(made):
        assert f"- {page.relative_to(made / 'docs').as_posix()}\n" in f"{navigation}\n", page.name


def test_the_page_of_studies_says_what_the_results_say(made: Path) -> None:
    page = (made / "docs" / "studies.md").read_text(encoding="utf-8")
    found = [json.loads(path.read_bytes()) for path in sorted((ROOT / "recipes" / "results").glob("*.json"))]
    studies = [one for one in found if "verdict" in one]
    assert len(studies) >= 4
    for one in studies:
        part = page.split(f"## {one['study']}\n")[1].split("\n## ")[0]
        assert one["sentence"] in part and one["claim"] in part and one["command"] in part


def test_the_page_of_studies_says_what_came_out_with_smollm2_and_beside_it() -> None:
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^<!-- smollm2 -->\n(.*?)^<!-- /smollm2 -->$", page, re.MULTILINE | re.DOTALL)
    for folder, model in (("smollm2", "SmolLM2"), ("beside_smollm2", "bundled")):
        found = [json.loads(path.read_bytes()) for path in (ROOT / "recipes" / "results" / folder).glob("*.json")]
        assert found
        for one in found:
            who = "both" if one["study"] == "controls" else model
            said = one["sentence"].replace(f"{one['verdict'].capitalize()}: ", "")
            assert f"| `{one['study']}` | {who} | {one['verdict']} | {said} |\n" in table
    figures = json.loads((ROOT / "recipes" / "results" / "smollm2" / "controls.json").read_bytes())["figures"]
    for model in ("smollm2", "bundled"):
        change = figures[model]["change"]["learning, same windows"]
        mean, low, high = (f"{100 * change[name]:.1f}".replace("-", "−") for name in ("mean", "low", "high"))
        context, learning = (round(100 * figures[model]["share"][step]["mean"]) for step in ("context", "learning"))
        assert f"{mean} % ({low} to {high})" in table
        assert re.search(rf"\b{context} % and(?: learning)? {learning} %", table)


# -------------------------------------------------------------------------------------------------- links and numbers


def written_pages(made: Path) -> list[Path]:
    return sorted((made / "docs").rglob("*.md"))


def slug(heading: str) -> str:
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower())


def test_every_link_and_chart_leads_somewhere(made: Path) -> None:
    links = 0
    for page in written_pages(made):
        text = pages.FENCE.sub("", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            assert "://" not in target, f"{page.name} links to {target}"
            name, _, part = target.partition("#")
            there = page if not name else page.parent / name
            assert there.is_file(), f"{page.name} links to {target}"
            if part:
                headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
                assert part in map(slug, headings), f"{page.name} links to {target}"
            links += 1
    assert links > 60


def test_no_table_that_a_page_names_is_missing(made: Path) -> None:
    for page in written_pages(made):
        assert "<!--" not in page.read_text(encoding="utf-8"), page.name
    weights = (made / "docs" / "weights.md").read_text(encoding="utf-8")
    assert "| cached | all weights | adam" in weights


def test_no_measured_number_is_typed_by_hand() -> None:
    """Decimal numbers of a page's prose are in a part that holds what was measured, of docs/ or the README."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    own = re.findall(r"^<!-- (demo|real) -->\n(.*?)^<!-- /\1 -->$", readme, flags=re.MULTILINE | re.DOTALL)
    assert len(own) == 2
    measured = "\n".join([*(part for _, part in own), *documentation.measured().values()])
    for page in [ROOT / "README.md", *DOCS]:
        if page.name == "log.md":  # its entries are dated, and say what was measured on that day
            continue
        text = pages.FENCE.sub("", page.read_text(encoding="utf-8"))
        prose = re.sub(r"`[^`]*`", "", text)
        for number in re.findall(r"(?<![\w.])\d[\d,]*\.\d+(?![\w.])", prose):
            assert number in measured or number == "3.11", f"{page.name}: {number}"


# ---------------------------------------------------------------------------------------------------------- the site


@pytest.fixture(scope="module")
def built(made: Path) -> Path:
    pytest.importorskip("zensical", reason="needs the extra docs")
    documentation.build(made)
    return made / "site"


def test_the_site_is_built_without_a_warning_and_has_every_page(built: Path, made: Path) -> None:
    for page in written_pages(made):
        assert (built / page.relative_to(made / "docs").with_suffix(".html")).is_file()


def test_the_site_asks_no_other_host_for_anything(built: Path) -> None:
    checked = 0
    for page in built.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for tag in re.findall(r"<(?:script|link|img|iframe|source|form)\b[^>]*>", text):
            for address in re.findall(r'(?:src|href|action|srcset)="?([^"\s>]+)', tag):
                assert not re.match(r"(?:https?:)?//", address), f"{page.name}: {tag}"
                checked += 1
    assert checked > 100
    for sheet in built.rglob("*.css"):
        assert not re.search(r"url\(\"?(?:https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet


def test_a_broken_link_is_an_error(made: Path, tmp_path: Path, built: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(made, tmp_path / "broken")
    (tmp_path / "broken" / "docs" / "python.md").write_text("# Python\n\n[nowhere](nowhere.md)\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"page does not exist"):
        documentation.build(tmp_path / "broken")
