"""Registries: whatever comes in kinds is found by its name, ours and other packages' through the same door.

An entry names an object as `package.module:Name`. That is the class that does the work, or a frozen dataclass of the
entry's own settings, in a module that imports nothing heavy, whose class variable `implementation` names the class that
does. Other packages declare entries in the entry-point group of the kind; every verb then offers their settings.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, make_dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal, get_type_hints

from driftlm.core.errors import DriftError


class Registry:
    """Entries of one kind by name.

    Args:
        setting: the setting that chooses one, as errors name it.
        group: of entry points.
        own: name -> `module:Name`, the entries of this package.

    Example:
        >>> registry = Registry("`Learning.rule`", "driftlm.rules of nobody", {"path": "pathlib:Path"})
        >>> registry.names, registry.load("path").__name__
        (('path',), 'Path')
    """

    def __init__(self, setting: str, group: str, own: Mapping[str, str]) -> None:
        self.setting, self.group, self.own = setting, group, dict(own)

    @cached_property
    def others(self) -> dict[str, Any]:
        """The entries of other packages, loaded; one that cannot be is left out, with a line that says so."""
        found: dict[str, Any] = {}
        for entry in entry_points(group=self.group):
            if entry.name in self.own or entry.name in found:
                warn(f"the entry {entry.name!r} of {self.group} ({entry.value}) has the name of another one")
                continue
            try:
                loaded = entry.load()
                refuse_unfit(entry.name, loaded)
            except Exception as error:
                warn(f"the entry {entry.name!r} of {self.group} ({entry.value}) cannot be loaded ({error})")
            else:
                found[entry.name] = loaded
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """All names, our own first."""
        return (*self.own, *self.others)

    def choice(self, but: str = "") -> Any:
        """Return the type of a setting that is one of the names, perhaps all but one."""
        return Literal[tuple(name for name in self.names if name != but)]

    def refuse_unknown(self, name: str, besides: str = "") -> None:
        """Refuse a name that no entry has."""
        if name not in self.own and name not in self.others:
            raise DriftError(f"{self.setting} was {name!r}; give one of {', '.join(sorted(self.names))}{besides}.")

    def entry(self, name: str) -> Any:
        """Return what an entry names: its settings, or the class that does the work."""
        self.refuse_unknown(name)
        if name in self.others:
            return self.others[name]
        module, _, attribute = self.own[name].partition(":")
        return getattr(import_module(module), attribute)

    def load(self, name: str) -> Any:
        """Return the class that does the work.

        Raises:
            DriftError: for a name that no entry has.
        """
        entry = self.entry(name)
        if not has_settings(entry):
            return entry
        module, _, attribute = entry.implementation.partition(":")
        return getattr(import_module(module), attribute)

    def settings(self, name: str, options: Any) -> Any:
        """Return the settings that an entry brings, with the values that `options` holds; None where it has none."""
        entry = self.entry(name)
        if not has_settings(entry):
            return None
        return entry(**{one.name: getattr(options, flag_of(name, one)) for one in fields(entry)})


def has_settings(entry: Any) -> bool:
    """Tell whether an entry names settings of its own."""
    return is_dataclass(entry) and hasattr(entry, "implementation")


def refuse_unfit(name: str, entry: Any) -> None:
    """Raise where an entry's name makes no flags, or its settings have no default or no type that can be found."""
    if not name.replace("-", "_").isidentifier():
        raise ValueError("its name holds other characters than letters, digits, - and _")
    if has_settings(entry):
        get_type_hints(entry)
        for one in fields(entry):
            if one.default is MISSING:
                raise ValueError(f"its setting {one.name!r} has no default")


def flag_of(name: str, one: "Field[Any]") -> str:
    """Return the name under which `options_of` has a field of an entry's settings.

    Example:
        >>> from driftlm.streams.windows import Windows
        >>> flag_of("un-igram", fields(Windows)[1])
        'un_igram_context'
    """
    return f"{name.replace('-', '_')}_{one.name}"


def options_of(title: str, module: str, *registries: Registry) -> Any:
    """Return a frozen dataclass of the settings that other packages' entries bring, a field for each of theirs.

    It is to stand in `module` under its title, where pickle finds it.

    A field of the entry `unigram` called `discount` is `unigram_discount`, with the default and the words of its own.
    """
    made: dict[str, tuple[str, Any, Any]] = {}
    for registry in registries:
        for name, entry in registry.others.items():
            if not has_settings(entry):
                continue
            words, hints = words_of(entry), get_type_hints(entry)
            for one in fields(entry):
                flag = flag_of(name, one)
                if flag in made:
                    warn(f"the setting {one.name!r} of the entry {name!r} of {registry.group} is another entry's flag")
                else:
                    made[flag] = flag, described(hints[one.name], words.get(one.name, "")), one.default
    about = {"__doc__": "Settings of other packages' entries.", "__module__": module}
    return make_dataclass(title, made.values(), frozen=True, namespace=about)


def words_of(entry: Any) -> dict[str, str]:
    """Return what a dataclass's docstring says of its fields."""
    from docstring_parser import parse  # comes with tyro

    return {one.arg_name: one.description or "" for one in parse(entry.__doc__ or "").params}


def described(kind: Any, words: str) -> Any:
    """Return a type with the words that help shows for it."""
    from typing import Annotated

    import tyro

    return Annotated[kind, tyro.conf.arg(help=words)] if words else kind


def kept(options: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the options of some entries, as a folder keeps them.

    Example:
        >>> kept({"unigram_share": 0.1, "other_size": 3}, ["weights", "unigram"])
        {'unigram_share': 0.1}
    """
    starts = tuple(f"{name.replace('-', '_')}_" for name in names)
    return {name: value for name, value in options.items() if name.startswith(starts)}


def held(options: Any, make: Callable[..., Any]) -> Any:
    """Return options as they are, or made of the JSON values that a folder holds.

    Raises:
        DriftError: for options of an entry that is not here.
    """
    if not isinstance(options, dict):
        return options
    try:
        return make(**options)
    except TypeError as error:
        raise DriftError(
            f"settings of another package's entry are named ({', '.join(options)}) that is not here; install it again."
        ) from error


def warn(sentence: str) -> None:
    """Say in one line on stderr that something of another package is left out."""
    sys.stderr.write(f"driftlm: {sentence}; it is left out.\n")
