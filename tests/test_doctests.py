"""Every example in a docstring runs and says what it says there."""

import doctest
import pkgutil
from importlib import import_module

import pytest

import driftlm

pytestmark = pytest.mark.long

PACKAGE = pkgutil.walk_packages(driftlm.__path__, "driftlm.")
MODULES = [found.name for found in PACKAGE if found.name != "driftlm.__main__"]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    outcome = doctest.testmod(import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert outcome.failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    assert sum(bool(test.examples) for name in MODULES for test in finder.find(import_module(name))) >= 5
