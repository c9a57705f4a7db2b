"""Questions answered by a language model behind what was supplied for them: the one place where answers are written."""

from collections.abc import Sequence

from driftlm.memories.base import Answer, Supply
from driftlm.models.answers import Rows, generate
from driftlm.models.loading import LanguageModel
from driftlm.models.prompting import LONGEST_ANSWER, prompt_ids


def answers(
    language_model: LanguageModel, prompts: Rows, supply: Supply, longest: int = LONGEST_ANSWER, beams: int = 1
) -> list[Answer]:
    """Return an answer to each of R prompts, which hold the texts of the supply already, by its modulation.

    Args:
        language_model: as it is now.
        prompts: R rows of token ids.
        supply: what was supplied for their questions; its documents are those that the answers name.
        longest: tokens of an answer at most.
        beams: of the search; 1 is greedy.

    Raises:
        DriftError: for fewer than one token or beam.
    """
    written = generate(language_model, prompts, supply.modulated, longest, beams)
    return [Answer(text, tuple(named)) for text, named in zip(written, supply.documents, strict=True)]


def prompts_of(language_model: LanguageModel, questions: Sequence[str], supply: Supply) -> list[list[int]]:
    """Return the prompts of some questions, each behind the text that was supplied for it."""
    return [prompt_ids(language_model, *pair) for pair in zip(questions, supply.texts, strict=True)]
