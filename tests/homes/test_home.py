"""A home is the memory it holds: closed and opened, failed and forgotten, it has the same bits as one in no folder."""

from pathlib import Path

import pytest
import torch

from driftlm import Document, DriftError, Learning
from driftlm.homes.deletion import forget
from driftlm.homes.home import Home
from driftlm.homes.verifying import verify
from driftlm.memories.bank.networks import BankNetworks
from driftlm.memories.base import Answer
from driftlm.memories.composed import TINY
from driftlm.models.answers import generate
from driftlm.models.prompting import prompt_ids
from tests.support.build import language_model
from tests.support.homes import FROZEN, GRID, KINDS, MemorySettings, assert_same, documents, home_in, model, straight
from tests.support.running import words

pytestmark = pytest.mark.long

READ = documents(5)


@pytest.mark.parametrize("kind", KINDS)
def test_opened_again_a_home_goes_on_as_if_never_closed(kind: str, tmp_path: Path) -> None:
    settings = KINDS[kind]
    before = {name: value.clone() for name, value in model().model.state_dict().items()}
    with home_in(tmp_path / "home", settings) as home:
        for document in READ[:2]:
            home.read(document)
    assert (tmp_path / "home" / "state" / "checkpoint.json").exists()
    with home_in(tmp_path / "home") as home:  # from the checkpoint
        assert home.replay.saved == home.history == [1, 2]
        for document in READ[2:4]:
            home.read(document)
        home.replay.saved = home.history  # as if killed: no checkpoint is written
    with home_in(tmp_path / "home") as home:  # from the checkpoint and the journal
        assert home.replay.saved == [1, 2]
        home.read(READ[4])
        assert_same(home.memory.state(), straight(settings, READ))
        home.replay.saved = home.history
    for path in (tmp_path / "home" / "state").iterdir():
        path.unlink()
    with home_in(tmp_path / "home") as home:  # from the journal alone
        assert_same(home.memory.state(), straight(settings, READ))
    assert verify(tmp_path / "home") == []
    assert all((value == before[name]).all() for name, value in model().model.state_dict().items())


def test_totals_are_those_of_the_document(tmp_path: Path) -> None:
    from driftlm.memories.build import memory_for
    from driftlm.memories.loop import read_stream

    memory = memory_for(KINDS["all adam"], model(), None)
    steps = list(read_stream(memory, READ[:2], baseline=memory.static()))
    first = max(place for place, step in enumerate(steps) if step.window.document == "d0")
    middle, last = steps[first].totals, steps[-1].totals
    with home_in(tmp_path / "home") as home:
        one, two = (home.read(document).totals for document in READ[:2])
    assert (one.tokens, one.nats, one.static_nats) == (middle.tokens, middle.nats, middle.static_nats)
    assert two.tokens == last.tokens - middle.tokens and two.documents == 1
    assert one.updates > 0 < two.updates and one.updates + two.updates == memory.counts.updates
    assert two.nats == pytest.approx(last.nats - middle.nats) and two.seconds > 0
    assert two.static_nats == pytest.approx((last.static_nats or 0) - (middle.static_nats or 0))


def test_what_is_sent_twice_is_read_once_and_another_text_is_a_newer_version(tmp_path: Path) -> None:
    newer = Document("d0", words(9, 99), "2001")
    with home_in(tmp_path / "home", KINDS["learns behind words"]) as home:
        first = home.read(READ[0])
        assert home.read(READ[0]) == first and home.history == [1]
        assert home.read(newer).seq == 2 and home.read(newer).seq == 2
        assert home.read(READ[0]).seq == 3  # the earlier text once more: what it says now
        assert list(home.memory.sources[0].documents) == ["d0"]  # type: ignore[union-attr]
        assert_same(home.memory.state(), straight(KINDS["learns behind words"], [READ[0], newer, READ[0]]))


def test_what_cannot_be_read_or_kept_leaves_the_home_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with home_in(tmp_path / "home") as home:
        home.read(READ[0])
        with pytest.raises(DriftError, match="no token"):
            home.read(Document("empty", ""))

        def full(*_: object) -> None:
            raise DriftError("the disk is full.")

        with monkeypatch.context() as patch:
            patch.setattr(home.journal, "append", full)
            with pytest.raises(DriftError, match="full"):
                home.read(READ[1])
        assert_same(home.memory.state(), straight(KINDS["all adam"], READ[:1]))

        def stopped(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(home.journal, "append", stopped)
            with pytest.raises(KeyboardInterrupt):
                home.read(READ[1])
        with pytest.raises(DriftError, match="open it again"):
            home.read(READ[1])
    with home_in(tmp_path / "home") as home:
        home.read(READ[1])
        assert_same(home.memory.state(), straight(KINDS["all adam"], READ[:2]))


def test_a_home_answers_behind_its_sources_or_without_any(tmp_path: Path) -> None:
    with home_in(tmp_path / "words", KINDS["words"]) as home:
        home.read(READ[0])
        assert home.answer("Where is the sea?").documents[0][0] == "d0"
    with home_in(tmp_path / "weights") as home:
        home.read(READ[0])
        prompt = prompt_ids(model(), "Where?")
        said = generate(home.memory.language_model, [prompt], None)[0]
        assert home.answer("Where?") == Answer(said, ())


def test_a_bank_is_kept_and_forgets(tmp_path: Path) -> None:
    """The bank's networks are shared, and not a part of the state; timestamps are in the order of the reading."""
    networks = BankNetworks(model(), TINY).eval()
    for parameter in networks.modulation.parameters():
        torch.nn.init.normal_(parameter)
    settings = MemorySettings(GRID, FROZEN, ("bank", "bm25"), budget=6)
    with home_in(tmp_path / "home", settings, shared={"bank": networks}) as home:
        for document in READ[:3]:
            home.read(document)
        home.snapshot("three")
        state = home.memory.state()
    with home_in(tmp_path / "home", shared={"bank": networks}) as home:
        assert_same(home.memory.state(), state)
        forget(home, "d1", purge=True)
        now = home.read(READ[3])
        with home_in(tmp_path / "never", settings, shared={"bank": networks}) as never:
            for document in (READ[0], READ[2]):
                never.read(document)
            never.snapshot("three")
            assert never.read(READ[3]).totals.nats == now.totals.nats != now.totals.static_nats
            for name, value in never.memory.state().tensors.items():
                held = home.memory.state().tensors[name]
                assert "moments" in name or torch.equal(held, value)
        home.restore(home.point(snapshot="three"))
        assert list(home.memory.sources[0].documents) == ["d0", "d2"]  # type: ignore[union-attr]


def test_what_cannot_work_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DriftError, match="gradient statistics|statistics"):
        Home.create(tmp_path / "home", model(), MemorySettings(GRID, Learning(rule="rms")))
    assert not list(tmp_path.iterdir())


def test_a_home_is_open_once(tmp_path: Path) -> None:
    with home_in(tmp_path / "home") as home:
        for again in (lambda: Home.open(home.folder, model()), lambda: verify(home.folder)):
            with pytest.raises(DriftError, match="open already"):
                again()
    with pytest.raises(DriftError, match="open it again"):
        home.read(READ[0])
    home.close()
    with home_in(tmp_path / "home"):
        pass


def test_other_models_places_and_settings_are_refused(tmp_path: Path) -> None:
    with home_in(tmp_path / "home"):
        pass
    with pytest.raises(DriftError, match="made with the model"):
        Home.open(tmp_path / "home", language_model("qwen"))
    with pytest.raises(DriftError, match="not empty"):
        Home.create(tmp_path / "home", model(), KINDS["words"])
    with pytest.raises(DriftError, match="holds no home"):
        Home.open(tmp_path, model())
    with pytest.raises(DriftError, match="a mixture reads without"):
        MemorySettings(GRID, KINDS["mixture"].learning, ("bm25",))
    with pytest.raises(DriftError, match="once each"):
        MemorySettings(GRID, FROZEN, ("bm25", "bm25"))
