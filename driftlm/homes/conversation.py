"""A conversation with a home: each question is written behind the turns before it, as `/v1/chat/completions` does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftlm.homes.completing import Completion, NoRoom, Sampling, turn
from driftlm.homes.decoding import complete
from driftlm.homes.opening import opened
from driftlm.homes.prompts import Prompt, Role
from driftlm.homes.settings import Talk
from driftlm.memories.base import Memory
from driftlm.models.prompting import LONGEST_ANSWER


@dataclass(frozen=True)
class Said:
    """A question and what was said to it."""

    question: str
    completion: Completion

    @property
    def documents(self) -> tuple[tuple[str, float], ...]:
        """Ids of the documents that the answer rests on, and the share of each, the largest first."""
        return self.completion.documents

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "question": self.question,
            "answer": self.completion.text,
            "reason": self.completion.reason,
            "documents": [{"id": id, "share": share} for id, share in self.documents],
            "prompt_tokens": self.completion.prompt_tokens,
            "completion_tokens": self.completion.completion_tokens,
        }


class Conversation:
    """Turns with a home, which stays as it is.

    What outgrows the model's positions is left out from the oldest turn on; what `Talk.system` says stays.

    Args:
        memory: of the home.
        talk: how it answers.
    """

    def __init__(self, memory: Memory, talk: Talk) -> None:
        self.memory, self.talk = memory, talk
        self.turns: list[tuple[Role, str]] = []

    def ask(self, question: str, say: Callable[[str], None] = lambda text: None) -> Said:
        """Answer a question behind the turns before it, which it then joins with its answer.

        Args:
            question: of the user.
            say: gets the answer in pieces, as they come.

        Raises:
            DriftError: for a mixture of experts, which does not write; for a question that leaves no room.
        """
        system: list[tuple[Role, str]] = [("system", self.talk.system)] if self.talk.system else []
        asked: tuple[Role, str] = ("user", question)
        language_model, chosen = self.memory.language_model, Sampling(temperature=self.talk.temperature)
        turns = list(self.turns)
        while True:
            prompt, sampling = turn(language_model, [*system, *turns, asked], chosen)
            if not turns or self.roomy(prompt):
                try:
                    made = complete(self.memory, prompt, sampling, self.talk.tokens, lambda piece: say(piece.text))
                except NoRoom:  # behind what the sources supply
                    if not turns:
                        raise
                else:
                    self.turns = [*turns, asked, ("assistant", made.text)]
                    return Said(question, made)
            del turns[:2]

    def roomy(self, prompt: Prompt) -> bool:
        """Whether behind a prompt there is room for an answer of a usual length."""
        positions = self.memory.language_model.positions
        return positions is None or len(prompt.ids("")) + min(self.talk.tokens, LONGEST_ANSWER) <= positions


@contextmanager
def conversing(folder: str | Path, talk: Talk) -> Iterator[Conversation]:
    """A conversation with the home in a folder, which is open meanwhile.

    Raises:
        DriftError: when there is no home, or its model is not to be had.
    """
    with opened(folder) as home:
        yield Conversation(home.memory, talk)
