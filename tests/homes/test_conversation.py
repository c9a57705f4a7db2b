"""A conversation that outgrows the model's positions goes on without its oldest turns; what has no room is refused."""

import pytest

from driftlm import DriftError
from driftlm.homes.completing import NoRoom
from driftlm.homes.conversation import Conversation
from driftlm.homes.settings import Talk
from driftlm.memories.build import memory_for
from tests.support.homes import KINDS, documents, model
from tests.support.running import words


@pytest.mark.parametrize("kind", ["all adam", "words"])
def test_the_oldest_turns_make_room(kind: str) -> None:
    memory = memory_for(KINDS[kind], model(), None)
    for document in documents(2) if kind == "words" else ():
        memory.add_all([document])  # type: ignore[union-attr]
    talk = Conversation(memory, Talk(tokens=8, system="on the sea"))
    positions = model().positions
    assert positions is not None
    for number in range(12):
        said = talk.ask(f"where was {words(positions // 12, number)}?")
        assert said.completion.prompt_tokens + said.completion.completion_tokens <= positions
        assert talk.turns[-2:] == [("user", said.question), ("assistant", said.completion.text)]
    assert 2 <= len(talk.turns) < 24

    kept = list(talk.turns)
    with pytest.raises(NoRoom, match="positions"):
        talk.ask(words(2 * positions))
    assert talk.turns == kept


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(DriftError, match="`Talk.tokens` was 0"):
        Talk(tokens=0)
    with pytest.raises(DriftError, match="`Talk.temperature` -1"):
        Talk(temperature=-1)
    with pytest.raises(DriftError, match="a mixture reads, but does not write"):
        Conversation(memory_for(KINDS["mixture"], model(), None), Talk()).ask("where?")
