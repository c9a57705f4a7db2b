"""Tenants share a model and nothing else; those that leave the memory come back with the same bits."""

import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from driftlm import Document, DriftError
from driftlm.homes.home import Home
from driftlm.homes.tenants import Tenants
from driftlm.homes.verifying import verify
from tests.support.homes import KINDS, assert_same, bytes_of, documents, model, straight
from tests.support.running import words

pytestmark = pytest.mark.long

READ = documents(6)
NAMES = ["ada", "bo", "cy"]


@pytest.mark.parametrize("kind", ["all adam", "learns behind words"])
def test_evicted_tenants_come_back_with_the_same_bits(kind: str, tmp_path: Path) -> None:
    with Tenants(tmp_path, model(), KINDS[kind], most_in_memory=1) as tenants:
        for round in range(2):
            for place, name in enumerate(NAMES):
                with tenants.using(name) as home:
                    home.read(READ[2 * place + round])
                    assert tenants.in_memory() == [name]
        assert tenants.names() == NAMES
        for place, name in enumerate(NAMES):
            with tenants.using(name) as home:
                assert_same(home.memory.state(), straight(KINDS[kind], READ[2 * place : 2 * place + 2]))
    assert tenants.in_memory() == []
    assert all(verify(tmp_path / name) == [] for name in NAMES)


def test_the_least_recently_used_leave_and_those_in_use_stay(tmp_path: Path) -> None:
    with Tenants(tmp_path, model(), KINDS["words"], most_in_memory=2) as tenants:
        for name in ("ada", "bo", "ada", "cy"):
            with tenants.using(name):
                pass
        assert tenants.in_memory() == ["ada", "cy"]
        with tenants.using("ada"), tenants.using("bo"), tenants.using("cy"):
            assert sorted(tenants.in_memory()) == NAMES  # more than should stay, but all are needed
        assert tenants.in_memory() == ["bo", "ada"]


@settings(max_examples=5)
@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.integers(10**9, 10**10)), min_size=3, max_size=6, unique=True),
    st.integers(1, 3),
)
def test_no_tenant_has_a_byte_of_another(facts: list[tuple[str, int]], most: int) -> None:
    before = {name: value.clone() for name, value in model().model.state_dict().items()}
    kind = KINDS["learns behind words"]
    with TemporaryDirectory() as folder:
        with Tenants(folder, model(), kind, most_in_memory=most) as tenants:
            for name, mark in facts:
                with tenants.using(name) as home:
                    home.read(Document(f"id{mark}", f"{mark} {words(6, mark)}"))
            for name in {name for name, _ in facts}:
                own = [Document(f"id{mark}", f"{mark} {words(6, mark)}") for who, mark in facts if who == name]
                with tenants.using(name) as home:
                    home.snapshot("all")
                    assert_same(home.memory.state(), straight(kind, own))  # as if it were alone
        for name, mark in facts:
            for file, data in bytes_of(Path(folder)).items():
                assert str(mark).encode() not in data or file.startswith(f"{name}/")
    assert all(torch.equal(value, before[name]) for name, value in model().model.state_dict().items())


def test_threads_wait_for_a_tenant_and_not_for_others(tmp_path: Path) -> None:
    with Tenants(tmp_path, model(), KINDS["learns behind words"], most_in_memory=1) as tenants:
        inside, go_on, read = threading.Event(), threading.Event(), list[str]()

        def first() -> None:
            with tenants.using("ada") as home:
                inside.set()
                go_on.wait(30)
                read.append(home.read(READ[0]).id)

        def second() -> None:
            with tenants.using("ada") as home:
                read.append(home.read(READ[1]).id)

        threads = [threading.Thread(target=first), threading.Thread(target=second)]
        threads[0].start()
        assert inside.wait(30)
        threads[1].start()
        with tenants.using("bo") as home:  # while another thread has ada
            home.read(READ[2])
        assert read == []
        go_on.set()
        for thread in threads:
            thread.join(60)
        assert read == ["d0", "d1"]
        with tenants.using("ada") as home:
            assert_same(home.memory.state(), straight(KINDS["learns behind words"], READ[:2]))


def test_names_that_could_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    with Tenants(tmp_path / "all", model(), KINDS["words"]) as tenants:
        for name in ("", ".", "..", "a/b", "../ada", "/ada", "a" * 65, "ada\n", "ä", "a b", "a.b"):
            with pytest.raises(DriftError, match="no name of a tenant"), tenants.using(name):
                pass
        assert tenants.names() == [] and not list((tmp_path / "all").iterdir())
    with pytest.raises(DriftError, match="at least 1"):
        Tenants(tmp_path / "all", model(), KINDS["words"], most_in_memory=0)


def test_a_home_that_failed_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with Tenants(tmp_path, model(), KINDS["words"]) as tenants:
        with tenants.using("ada") as home:
            home.read(READ[0])
            monkeypatch.setattr(home.journal, "append", stopped)
            with pytest.raises(KeyboardInterrupt):
                home.read(READ[1])
        with tenants.using("ada") as home:
            assert home.read(READ[1]).seq == 2
        with monkeypatch.context() as patch:
            patch.setattr(Home, "create", stopped)
            with pytest.raises(KeyboardInterrupt), tenants.using("bo"):
                pass
        assert tenants.in_memory() == ["ada"]
        (tmp_path / "cy").mkdir()
        (tmp_path / "cy" / "home.json").write_text("{}")
        with pytest.raises(DriftError, match="damaged"), tenants.using("cy"):
            pass
        with tenants.using("bo") as home:
            home.read(READ[2])


def test_a_folder_of_homes_is_open_once(tmp_path: Path) -> None:
    with Tenants(tmp_path, model(), KINDS["words"]), pytest.raises(DriftError, match="open already"):
        Tenants(tmp_path, model(), KINDS["words"])
    with Tenants(tmp_path, model(), KINDS["words"]) as tenants:
        tenants.close()  # twice is as good as once
