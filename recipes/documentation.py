"""Make the documentation site: hand-written pages, and pages made from the program, the server and the results.

    python -m recipes.documentation               # pages to build/docs, the site to build/site (extra `docs`)
    python -m recipes.documentation --no-site     # the pages alone

The pages of docs/ are copied. What was measured stands between `<!-- NAME -->` and `<!-- /NAME -->` on one of them;
where another says `<!-- table: NAME N -->`, the N-th table of that part stands instead, so that no measured number is
typed twice. Charts of recipes/results/ are copied beside them. Made are: a page for every verb of the command line,
from what its `--help` prints; the routes of the server, from its OpenAPI schema and from requests that are really sent;
the public names of the package, from their docstrings; every module, from the first line of its docstring; and the
studies, from recipes/results/*.json.
"""

import argparse
import ast
import io
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from recipes.documented_names import names_page
from recipes.documented_routes import routes_page

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "recipes" / "results"
# Results of other models or on other texts, by their folder.
STUDIED = {"smollm2": "SmolLM2", "beside_smollm2": "the bundled model on the texts of SmolLM2"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the documentation site.")
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="folder of docs/ and site/")
    parser.add_argument("--no-site", action="store_true", help="write the pages alone")
    asked = parser.parse_args()
    print(f"{write_pages(asked.out)} pages: {asked.out / 'docs'}")
    if not asked.no_site:
        print(build(asked.out), end="")
        print(f"site: {asked.out / 'site' / 'index.html'}")
        print(f"to search in it as well: {Path(sys.executable).name} -m http.server --directory {asked.out / 'site'}")


def write_pages(out: Path) -> int:
    """Write OUT/docs and OUT/mkdocs.yml anew; how many pages there are."""
    folder = out / "docs"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder)
    parts = measured()
    pages = {page.name: filled(page.read_text(encoding="utf-8"), parts) for page in folder.glob("*.md")}
    for chart in RESULTS.rglob("*.png"):
        place = folder / "charts" / chart.relative_to(RESULTS)
        place.parent.mkdir(exist_ok=True)
        shutil.copy(chart, place)
    of_verbs = verb_pages()
    made = pages | {
        "studies.md": studies_page(pages["studies.md"]),
        "house.md": pages["house.md"].replace("<!-- house -->", house()),
        "api.md": names_page(),
        "http.md": routes_page(),
    }
    made |= {f"cli/{name}.md": text for name, text in of_verbs.items()}
    for name, text in made.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    index = "          - cli/index.md\n"
    verbs = "".join(index.replace("index", name) for name in of_verbs if name != "index")
    (out / "mkdocs.yml").write_text(settings.replace(index, index + verbs), encoding="utf-8")
    return len(list(folder.rglob("*.md")))


def measured() -> dict[str, str]:
    """The parts of docs/ that hold what was measured, by name."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md")))
    found = re.findall(r"^<!-- (\w+) -->\n(.*?)^<!-- /\1 -->$", text, flags=re.MULTILINE | re.DOTALL)
    parts = dict(found)
    assert len(parts) == len(found), "two parts of docs/ have one name"
    return parts


def filled(page: str, parts: dict[str, str]) -> str:
    """A page with the tables it names, without the marks of parts, and its charts where they are copied to.

    >>> filled("<!-- table: a 1 -->", {"a": "| x |\\n|---|\\n\\ntext\\n"})
    '| x |\\n|---|\\n'
    """

    def table(found: re.Match[str]) -> str:
        assert found[1] in parts, f"docs/ has no part {found[1]}"
        return re.findall(r"(?:^\|.*\n)+", parts[found[1]], flags=re.MULTILINE)[int(found[2]) - 1]

    page = re.sub(r"<!-- table: (\S+) (\d+) -->", table, page)
    for name in parts:
        page = re.sub(f"^<!-- /?{name} -->\n", "", page, flags=re.MULTILINE)
    return page.replace("../recipes/results/", "charts/")


def build(out: Path) -> str:
    """The site, from what was written to OUT; a warning is an error. What zensical said."""
    if find_spec("zensical") is None:
        raise SystemExit("the site needs the extra `docs`: pip install -c constraints.txt '.[docs]'")
    shutil.rmtree(out / "site", ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f", str(out / "mkdocs.yml")]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{done.stdout}{done.stderr}")
    return done.stdout


# ------------------------------------------------------------------------------------------------- the command line


def verb_pages() -> dict[str, str]:
    """A page for every verb, by its name, those of a group on one page; and `index`, which lists them."""
    from driftlm.cli.main import GROUPS, VERBS

    pages, lines = {}, []
    for verb in VERBS:
        if verb in GROUPS:
            names = [f"{verb} {one}" for one in GROUPS[verb]]
            sections = [
                f"# driftlm {verb}\n\n{contents(names)}",
                *(f"## driftlm {one}\n\n{helped(one)}" for one in names),
            ]
        else:
            names, sections = [verb], [f"# driftlm {verb}\n\n{helped(verb)}"]
        pages[verb] = "\n\n".join(sections) + "\n"
        lines += [f"| [`driftlm {one}`]({verb}.md{anchor(one)}) | {escaped(summary(one))} |" for one in names]
    table = "\n".join(["| verb | |", "|---|---|", *lines])
    said = "Every verb of the program, from what its `--help` prints. Errors are one sentence, and the exit code is 2."
    return {"index": f"# Command line\n\n{said}\n\n{table}\n"} | pages


def contents(names: list[str]) -> str:
    """A list of sections of a page."""
    return "\n".join(f"- [`driftlm {one}`]({anchor(one)}): {escaped(summary(one))}" for one in names)


def anchor(name: str) -> str:
    """Where a verb of a group stands on its page; nothing for one that has a page."""
    return f"#driftlm-{name.replace(' ', '-')}" if " " in name else ""


@cache
def help_text(name: str) -> str:
    """What a verb's `--help` prints."""
    from driftlm.cli.main import called

    said, columns = io.TextIOWrapper(io.BytesIO(), "utf-8"), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "120"  # one column of boxes, however many there are
    try:
        with redirect_stdout(said):
            called([*name.split(), "--help"])
    except SystemExit:
        pass
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns
    said.seek(0)
    return said.read()


def summary(name: str) -> str:
    """The first sentence of a verb's help."""
    return help_text(name).split("\n\n")[1].strip()


def helped(name: str) -> str:
    """A verb's help as Markdown: what it does, how it is called, and a table for every group of options."""
    before, *boxes = re.split(r"^╭─ (.*?) ─+╮$", help_text(name), flags=re.MULTILINE)
    usage, _, about = before.partition("\n\n")
    parts = [escaped(about.strip()), f"```text\n{usage.removeprefix('usage: ').strip()}\n```"]
    for title, box in zip(boxes[::2], boxes[1::2], strict=True):
        note, rows = options(box)
        if rows:
            heading = f"**{title}**" + (f": {escaped(note)}" if note else "")
            parts.append("\n".join([heading, "", "| option | takes | default | meaning |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts)


def options(box: str) -> tuple[str, list[str]]:
    """What a box of a help text says above its line, and a row of a table for every option below it."""
    lines = [line[2:-1].rstrip() for line in box.splitlines() if line.startswith("│")]
    rule = next((at for at, line in enumerate(lines) if set(line) == {"─"}), None)
    note = "" if rule is None else " ".join(lines[:rule])
    entries: list[list[str]] = []
    for line in lines[0 if rule is None else rule + 1 :]:
        if line[:1] not in ("", " "):
            entries.append([*re.split(r" {2,}", line, maxsplit=1), ""][:2])
        elif entries:
            entries[-1][1] = f"{entries[-1][1]} {line.strip()}".strip()
    rows = []
    for flag, text in entries:
        if flag == "-h, --help":
            continue
        found = re.fullmatch(r"(.*?)\s*\((?:default: (.*)|(required))\)", text, flags=re.DOTALL)
        meaning, default = (found[1], found[3] or code(found[2])) if found else (text, "")
        name, _, kind = flag.partition(" ") if flag.startswith("-") else ("", "", flag)
        rows.append(f"| {code(name)} | {values(kind)} | {default} | {escaped(meaning)} |")
    return note, rows


def values(kind: str) -> str:
    """What an option takes, in words.

    >>> values("{a,b}"), values("[STR [STR ...]]"), values("{None}|INT")
    ('`a`, `b`', 'STR, several', 'INT')
    """
    kind = kind.replace("{None}|", "")
    kind = kind[1:-1] if kind.startswith("[[") else kind
    several = re.fullmatch(r"\[(.*) \[\1 \.\.\.\]\]|(.*) \[\2 \.\.\.\]", kind)
    kind = (several[1] or several[2]) if several else kind
    said = ", ".join(map(code, kind[1:-1].split(","))) if kind.startswith("{") else kind
    return f"{said}, several" if several else said


def code(text: str) -> str:
    """Text as code; none where it is empty, or where a switch is off."""
    return f"`{text}`" if text not in ("", "''", "False", "None") else ""


def escaped(text: str) -> str:
    """Text in a table: no cell ends early, nothing is a tag outside of code."""
    parts = re.split(r"(`[^`]*`)", text.replace("|", "\\|"))
    return "".join(part if at % 2 else part.replace("<", "&lt;").replace("*", "\\*") for at, part in enumerate(parts))


# --------------------------------------------------------------------------------------------------------- the house


def house() -> str:
    """Every module of the package with the first line of its docstring, by part, from the ground up."""
    package = ROOT / "driftlm"
    sections = []
    for part in layers():
        for file in sorted((package / part).rglob("__init__.py")):
            folder = file.parent
            modules = [
                f"| `{one.name}` | {escaped(sentence(one))} |"
                for one in sorted(folder.glob("*.py"))
                if one.name != "__init__.py"
            ]
            name = folder.relative_to(package).as_posix()
            sections += [f"{'###' if '/' in name else '##'} {name}", escaped(sentence(file))]
            sections += ["\n".join(["| module | |", "|---|---|", *modules])] if modules else []
    return "\n\n".join(sections)


def layers() -> tuple[str, ...]:
    """The parts of the package in the order that the tests assert."""
    for node in ast.parse((ROOT / "tests" / "test_house.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS":
            return ast.literal_eval(node.value)
    raise SystemExit("tests/test_house.py names no LAYERS")


def sentence(file: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


# ------------------------------------------------------------------------------------------------------- the studies


def studies_page(page: str) -> str:
    """A page with a table of verdicts in its place, and a section for every result, also those of `STUDIED`."""
    from driftlm.studies.page import results

    found = results(RESULTS)
    rows = [f"| [{one['study']}](#{one['study']}) | {one['claim']} | {one['verdict']} |" for one in found]
    table = "\n".join(["| study | claim | verdict |", "|---|---|---|", *rows])
    sections = [study_section(one) for one in found]
    for folder, title in STUDIED.items():
        sections += [study_section(one, title, folder) for one in results(RESULTS / folder)]
    return "\n\n".join([page.replace("<!-- verdicts -->", table).rstrip(), *sections]) + "\n"


def study_section(result: dict[str, Any], title: str = "", folder: str = "") -> str:
    """A study: its claim, what came out, its charts, its figures, and how it is run again."""
    from driftlm.studies.page import flattened, origins

    name = result["study"]
    images = [one.relative_to(RESULTS).as_posix() for one in sorted((RESULTS / folder).glob(f"{name}-*.png"))]
    charts = [f"![{Path(one).stem}](charts/{one})" for one in images]
    figures = [f"| {key} | {value} |" for key, value in flattened(result["figures"])]
    facts = [f"| {key} | {escaped(value)} |" for key, value in origins(result)]
    return "\n\n".join(
        [
            f"## {name}{title and f', {title}'}",
            f"*{result['claim']}*",
            f"Source: {result['source']}.",
            f"**{result['sentence']}**",
            *charts,
            "\n".join(["| figure | value |", "|---|---|", *figures]),
            f"```text\n{result['command']}\n```",
            "\n".join(["| where it comes from | |", "|---|---|", *facts]),
        ]
    )


if __name__ == "__main__":
    main()
