"""Registries: names, lazily loaded entries, and what is refused or left out."""

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest

from driftlm import DriftError
from driftlm.core import registry as module
from driftlm.core.registry import Registry, held, options_of
from driftlm.memories import registries

KINDS = [one for one in vars(registries).values() if isinstance(one, Registry)]


@dataclass(frozen=True)
class Dull:
    """A knife of another package.

    Attributes:
        angle: Grind it at so many degrees.
    """

    implementation: ClassVar[str] = "pathlib:PurePath"
    angle: int = 20


def knives(monkeypatch: pytest.MonkeyPatch, **others: str) -> Registry:
    """A registry of one own entry and those of other packages."""
    found = [EntryPoint(name.replace("_", "-"), place, "driftlm.knives") for name, place in others.items()]
    monkeypatch.setattr(module, "entry_points", lambda group: found if group == "driftlm.knives" else [])
    return Registry("`Kitchen.knife`", "driftlm.knives", {"path": "pathlib:Path"})


@pytest.mark.parametrize("one", KINDS, ids=[one.group for one in KINDS])
def test_every_entry_of_ours_can_be_loaded(one: Registry) -> None:
    assert one.own and all(callable(one.load(name)) for name in one.own)


@pytest.mark.parametrize("one", KINDS, ids=[one.group for one in KINDS])
def test_an_unknown_name_is_refused_with_those_there_are(one: Registry) -> None:
    with pytest.raises(DriftError, match=rf"{one.setting} was 'nosuch'; give one of .*{next(iter(one.own))}"):
        one.load("nosuch")


def test_settings_of_another_package_are_options(monkeypatch: pytest.MonkeyPatch) -> None:
    knife = knives(monkeypatch, very_dull=f"{__name__}:Dull")
    assert knife.names == ("path", "very-dull") and knife.load("very-dull").__name__ == "PurePath"
    options = options_of("Options", __name__, knife)
    assert options().very_dull_angle == 20
    assert knife.settings("very-dull", options(very_dull_angle=35)) == Dull(35)
    assert knife.settings("path", options()) is None
    assert held({"very_dull_angle": 1}, options) == options(1) and held(options(2), options) == options(2)
    with pytest.raises(DriftError, match="another package's entry are named .blunt_angle. that is not here"):
        held({"blunt_angle": 1}, options)


def test_what_cannot_be_loaded_is_one_line_and_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    knife = knives(monkeypatch, lost="no_such_package:Knife", path="pathlib:PurePath", good="pathlib:PosixPath")
    assert knife.names == ("path", "good") and knife.load("path").__name__ == "Path"
    lost, taken = capsys.readouterr().err.splitlines()
    assert lost.startswith("driftlm: the entry 'lost' of driftlm.knives (no_such_package:Knife) cannot be loaded")
    assert (
        taken
        == "driftlm: the entry 'path' of driftlm.knives (pathlib:PurePath) has the name of another one; it is left out."
    )
