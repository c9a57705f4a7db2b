"""The page of the package's public names, from their signatures and docstrings."""

import inspect
import re

import driftlm

SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Example)\b[^:]*:")


def names_page() -> str:
    """Every name of `driftlm.__all__`: its signature, its docstring, and the methods of a class."""
    sections = [named(name, getattr(driftlm, name)) for name in driftlm.__all__]
    said = "The names that `import driftlm` offers, from their docstrings. [In Python](python.md) shows them at work."
    return "\n\n".join(["# Python API", said, *sections]) + "\n"


def named(name: str, thing: object) -> str:
    """A section of the page."""
    parts = [f"## {name}", f"```python\n{declared(name, thing)}\n```", described(inspect.getdoc(thing) or "")]
    methods = [f"| `{one}` | {first_line(method)} |" for one, method in public_methods(thing)]
    if methods:
        parts.append("\n".join(["| method | |", "|---|---|", *methods]))
    return "\n\n".join(parts)


def declared(name: str, thing: object) -> str:
    """How a name is called.

    >>> declared("Document", driftlm.Document)
    'class Document(id, text, time=None)'
    """
    if inspect.isclass(thing) and issubclass(thing, BaseException):
        return f"class {name}({thing.__base__.__name__})"
    kind = "class" if inspect.isclass(thing) else "def"
    parameters = inspect.signature(thing).parameters.values()  # type: ignore[arg-type]
    bare = [str(one.replace(annotation=inspect.Parameter.empty)) for one in parameters]
    return f"{kind} {name}({', '.join(bare)})"


def public_methods(thing: object) -> list[tuple[str, object]]:
    """Methods and properties that a class has a docstring for."""
    if not inspect.isclass(thing) or issubclass(thing, BaseException):
        return []
    found = [(name, one) for name, one in vars(thing).items() if not name.startswith("_")]
    return [(name, one) for name, one in found if first_line(one) and (callable(one) or isinstance(one, property))]


def first_line(thing: object) -> str:
    """What a docstring begins with."""
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def described(docstring: str) -> str:
    """A docstring as Markdown: its sections become lists, its example a block of code.

    >>> print(described("Adds.\\n\\nArgs:\\n    one: a number,\\n        or two.\\n"))
    Adds.
    <BLANKLINE>
    **Args**
    <BLANKLINE>
    - `one`: a number, or two.
    """
    lines, section = list[str](), ""
    for line in docstring.splitlines():
        if SECTION.fullmatch(line):
            lines += ["```", ""] * (section == "Example") + [f"**{line.rstrip(':')}**", ""]
            section = line.split(" ")[0].rstrip(":")
            lines += ["```python"] * (section == "Example")
        elif section == "Example":
            if line and not line.startswith(" "):
                lines, section = [*lines, "```", line], ""
            else:
                lines.append(line[4:])
        elif section and re.match(r" {4}\S", line):
            name, colon, text = line.strip().partition(": ")
            lines.append(f"- `{name}`: {text}" if colon else f"- {line.strip()}")
        elif section and line.startswith(" "):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
            section = section if not line else ""
    if section == "Example":
        lines = [*"\n".join(lines).rstrip().split("\n"), "```"]
    return "\n".join(lines).rstrip()
