"""The house rules, read off the source: who imports whom, sizes, names, docstrings, settings that are read."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "driftlm"
FILES = sorted(PACKAGE.rglob("*.py"))
SOURCES = sorted(
    path for folder in ("driftlm", "tests", "recipes", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)

TESTS = sorted((ROOT / "tests").rglob("*.py"))

LONGEST_FILE = 400  # lines; a longer one begins with the reason
REASON = "# Long because "
OF_THE_WHOLE = ("conformance", "folders", "pins", "real")  # tests that belong to no folder of the package
REFUSED_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}

# The parts of the package from the ground up: each may import itself and what stands before it.
LAYERS = (
    "core",
    "storage",
    "streams",
    "models",
    "memories",
    "cost",
    "report",
    "runs",
    "evaluation",
    "training",
    "homes",
    "studies",
    "serving",
    "cli",
)
ROOT_FILES = {"__init__", "__main__"}  # the public names, loaded when first used; `python -m driftlm`

HEAVY = {"torch", "transformers", "peft", "tokenizers", "safetensors", "datasets", "altair", "vl_convert", "pandas"}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def name_of(path: Path) -> str:
    """`driftlm/streams/windows.py` -> `driftlm.streams.windows`; a package's `__init__` has the package's name."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def part_of(module: str) -> str:
    """The part a module belongs to: `driftlm.streams.windows` -> `streams`."""
    return module.split(".")[1] if "." in module else "__init__"


def imports(path: Path, *, nested: bool = True) -> Iterator[str]:
    """Modules that a file imports, `from driftlm.streams import windows` as `driftlm.streams.windows`.

    Without `nested` only those that run when the file is imported: not in functions, not for type checking, and not
    where their absence is handled.
    """
    waiting: list[ast.AST] = [tree_of(path)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the full name"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module
        optional = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Try) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        )
        if nested or not optional:
            waiting.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    part = part_of(module)
    if part in ROOT_FILES:
        return
    assert part in LAYERS, f"{module} stands in no layer: decide what it may import"
    for imported in imports(MODULES[module]):
        if imported.split(".")[0] == "driftlm" and imported != "driftlm":
            other = part_of(imported)
            assert LAYERS.index(other) <= LAYERS.index(part), f"{module} imports {imported}, which stands above it"


def test_the_root_holds_parts_alone() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == ROOT_FILES
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == set(LAYERS)


def test_modules_do_not_import_in_circles() -> None:
    below = {
        module: {name for name in imports(path, nested=False) if name in MODULES and name not in (module, "driftlm")}
        for module, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"a circle of imports: {' -> '.join((*above, module))}"
        if module not in done:
            for other in sorted(below[module]):
                visit(other, (*above, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_only_the_version_comes_from_the_package_itself() -> None:
    # The package's lazy names would go around the order of the parts: import them from where they are defined.
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            names: set[str] = set()
            if isinstance(node, ast.ImportFrom) and node.module == "driftlm":
                names = {alias.name for alias in node.names if f"driftlm.{alias.name}" not in MODULES}
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "driftlm":
                names = {node.attr}
            assert names <= {"__version__"}, f"{path}:{node.lineno}: {names} from the package itself"


def test_core_modules_import_without_the_extras() -> None:
    """A module that needs an extra to be imported is imported by no other, except in the function that needs it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = {re.split(r"[^A-Za-z0-9_-]", line)[0].replace("-", "_").lower() for line in project["dependencies"]}
    core |= {"driftlm", "tokenizers", "huggingface_hub", *sys.stdlib_module_names}  # two come with transformers
    below = {module: set(imports(path, nested=False)) for module, path in MODULES.items()}
    adapters = {module for module, names in below.items() if {name.split(".")[0] for name in names} - core}
    assert adapters < set(MODULES)
    for module, names in below.items():
        assert not names & adapters, f"{module} cannot be imported without the extra of {names & adapters}"


def test_test_modules_import_none_of_each_other() -> None:
    """What they share is in `tests/support/`."""
    for path in TESTS:
        for node in ast.walk(tree_of(path)):
            names: set[str] = set()
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
            for name in names:
                shared = name.startswith("tests.") and re.search(r"\.(test_|conftest\b)", name)
                assert not shared, f"{path}:{node.lineno}: imports {name}; put what is shared in tests/support"


def test_tests_mirror_the_package() -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in TESTS if path.name.startswith("test_")}
    for folder in folders - {Path(), *map(Path, OF_THE_WHOLE)}:
        assert (PACKAGE / folder / "__init__.py").exists(), f"tests/{folder} stands for no folder of the package"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_have_one_reason_to_exist(path: Path) -> None:
    first, *others = path.read_text(encoding="utf-8").splitlines() or [""]
    if len(others) < LONGEST_FILE:
        assert not first.startswith(REASON), "short enough: drop the reason"
    else:
        assert re.match(REASON + r"\w+ \w+", first), (
            f"{1 + len(others)} lines: look for the second reason to exist, or begin the file with `{REASON}…`"
        )
    names = {part.removesuffix(".py").lower() for part in path.relative_to(ROOT).parts}
    assert not names & REFUSED_NAMES, "name the file after what it does"


def in_a_fresh_interpreter(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    "code",
    [
        "import driftlm",
        "from driftlm.cli.main import main; main(['--help'])",
    ],
)
def test_nothing_heavy_is_imported_before_a_verb_runs(code: str) -> None:
    done = in_a_fresh_interpreter(
        f"import sys\ntry:\n    {code}\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"print('heavy:', *sorted(set({sorted(HEAVY)}) & set(sys.modules)))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["heavy:"]


def settings() -> Iterator[tuple[str, ast.ClassDef]]:
    """Frozen dataclasses that leave a choice: one that validates itself, has a default, or is in the command line.

    The others hold results, whose fields are there for the reader of a result.
    """
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.ClassDef):
                continue
            decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
            frozen = any("dataclass(" in text and "frozen=True" in text for text in decorators)
            validated = any(getattr(part, "name", "") == "__post_init__" for part in node.body)
            default = any(isinstance(part, ast.AnnAssign) and part.value is not None for part in node.body)
            if frozen and (validated or default or path.parent.name == "cli"):
                yield str(path.relative_to(ROOT)), node


def fields_of(node: ast.ClassDef) -> set[str]:
    return {
        statement.target.id
        for statement in node.body
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and "ClassVar" not in ast.unparse(statement.annotation)
    }


def reads(node: ast.AST) -> Counter[str]:
    """How often each attribute name is read below a node."""
    attributes = (inner for inner in ast.walk(node) if isinstance(inner, ast.Attribute))
    return Counter(inner.attr for inner in attributes if isinstance(inner.ctx, ast.Load))


def test_every_setting_is_read() -> None:
    """A setting that is only validated is a setting that does nothing: reads in `__post_init__` do not count."""
    everywhere = sum((reads(tree_of(path)) for path in FILES), Counter[str]())
    unread = []
    for where, node in settings():
        own = sum((reads(part) for part in node.body if getattr(part, "name", "") == "__post_init__"), Counter[str]())
        unread += [
            f"{where}: {node.name}.{field}" for field in sorted(fields_of(node)) if everywhere[field] <= own[field]
        ]
    assert not unread


def test_every_parameter_of_the_command_line_is_read() -> None:
    unread = []
    for node in (node for path in sorted((PACKAGE / "cli").glob("*.py")) for node in tree_of(path).body):
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            names = {inner.id for part in node.body for inner in ast.walk(part) if isinstance(inner, ast.Name)}
            unread += [f"{node.name}({argument.arg})" for argument in arguments if argument.arg not in names]
    assert not unread


def public(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_")


def test_everything_public_has_a_docstring() -> None:
    silent = []
    for path in FILES:
        module = tree_of(path)
        nodes = [module, *(node for node in module.body if public(node))]
        silent += [
            f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'the module')}"
            for node in nodes
            if not ast.get_docstring(node)
        ]
    assert not silent


def test_docstrings_begin_with_a_capital_letter_and_end_with_a_full_stop() -> None:
    wrong = []
    for path in FILES:
        module = tree_of(path)
        classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
        nodes = [module, *(node for place in [module, *classes] for node in place.body if public(node))]
        for node in nodes:
            first = (ast.get_docstring(node) or "").split("\n\n")[0]
            if first and not (first[0].isupper() and first.endswith(".")):
                wrong.append(f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'the module')}: {first}")
    assert not wrong


def names_of_settings() -> dict[str, set[str]]:
    """Fields, properties, methods and parameters of every class and function below the command line, by its name."""
    names: dict[str, set[str]] = {}
    for path in FILES:
        if part_of(name_of(path)) == "cli":
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names.setdefault(node.name, set()).update(parameters_of(node))
            elif isinstance(node, ast.ClassDef):
                found = names.setdefault(node.name, set())
                for part in node.body:
                    if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
                        found |= {part.name} | (parameters_of(part) if part.name == "__init__" else set())
                    elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                        found.add(part.target.id)
    return names


def parameters_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    return {one.arg for one in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]}


def errors() -> Iterator[tuple[str, str]]:
    """Where an error that users read is made outside the command line, and its sentence without what it fills in."""
    classes = [node for path in FILES for node in ast.walk(tree_of(path)) if isinstance(node, ast.ClassDef)]
    kinds = {"DriftError"}
    for _ in classes:
        kinds |= {node.name for node in classes if {ast.unparse(base) for base in node.bases} & kinds}
    for path in FILES:
        if part_of(name_of(path)) == "cli":
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in kinds:
                filled = [inner for inner in ast.walk(node) if isinstance(inner, ast.JoinedStr)]
                pieces = {id(piece) for inner in filled for piece in inner.values}
                plain = [
                    inner.value
                    for inner in ast.walk(node)
                    if isinstance(inner, ast.Constant) and isinstance(inner.value, str) and id(inner) not in pieces
                ]
                sentences = [
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in inner.values)
                    for inner in filled
                ]
                yield f"{path.relative_to(ROOT)}:{node.lineno}", " ".join([*sentences, *plain])


def test_settings_that_are_named_exist() -> None:
    """`Owner.field` in a string, and `function.parameter` in an error, are found where they say."""
    names, unknown = names_of_settings(), []
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for owner, field in re.findall(r"`([A-Z][A-Za-z0-9]*)\.(\w*)", node.value):
                    # A field that is filled in is seen by the test of the error.
                    if owner not in names or (field and field not in names[owner]):
                        unknown.append(f"{path.relative_to(ROOT)}:{node.lineno}: {owner}.{field}")
    for where, sentence in errors():
        for owner, field in re.findall(r"`([a-z]\w*)\.(\w+)`", sentence):
            if not re.fullmatch("jsonl?|py|sqlite", field) and field not in names.get(owner, ()):
                unknown.append(f"{where}: {owner}.{field}")
    assert not unknown


def test_flags_are_the_command_lines_alone() -> None:
    """An error outside `cli` names a setting by its field; a flag stands there only in a command to run."""
    found = list(errors())
    assert len(found) > 100
    wrong = [
        f"{where}: {sentence}"
        for where, sentence in found
        if re.search(r"(?<![\w-])--\w", re.sub(r"`driftlm [^`]*`", "", sentence))
    ]
    assert not wrong


def test_no_machine_path_is_in_a_tracked_file() -> None:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files are tracked is unknown")
    # Files that are new and not ignored count: they are about to be tracked.
    command = [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    # Written so that this file does not hold them itself.
    machine_path = re.compile(rb"(?<![\w.}])/" + rb"(work|root|home/\w+|Users/\w+)/")
    found = []
    for path in (ROOT / name for name in names if name):
        if path.is_file() and path.suffix not in {".safetensors", ".png"}:
            for number, line in enumerate(path.read_bytes().splitlines(), start=1):
                if machine_path.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}")
    assert not found
