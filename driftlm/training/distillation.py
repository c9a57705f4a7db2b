"""Context distillation: what the frozen model would say with the document in its context, to be said without it.

Letters: R questions, A answer tokens of the longest answer, V vocabulary.

After "Learning by Distilling Context" (arXiv 2209.15189): the teacher is the student's own language model, which reads
the document as text; the student has the modulation alone.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from driftlm.models.answers import Rows, answer_logits
from driftlm.models.batching import asked_in_batches
from driftlm.models.loading import LanguageModel
from driftlm.models.prompting import padded, prompt_ids


def divergence(
    language_model: LanguageModel,
    questions: Sequence[str],
    documents: Sequence[str],
    answers: Rows,
    logits: Tensor,
) -> Tensor:
    """Return KL(p_context || p_modulated) in nats before each answer token, (R, A) float32, 0 beyond an answer's end.

    A question whose document is too long to be read whole with it has 0 as well: a model that sees a part of a
    document would teach that the rest was never said.

    Args:
        language_model: frozen; gradients reach `logits` alone.
        questions: R texts.
        documents: the text that answers each.
        answers: R rows of token ids.
        logits: (R, A, V) of the modulated model, of `answer_logits`.
    """
    most = language_model.positions
    prompts = [prompt_ids(language_model, *one) for one in zip(questions, documents, strict=True)]
    fit = [n for n, prompt in enumerate(prompts) if most is None or len(prompt) + len(answers[n]) - 1 <= most]
    found = logits.new_zeros(logits.shape[:2])
    counts = [len(prompts[n]) + len(answers[n]) for n in fit]
    for places in asked_in_batches(language_model, counts, max(map(len, answers))):
        some = [fit[place] for place in places]
        chosen = [answers[n] for n in some]
        with torch.no_grad():
            teacher = answer_logits(language_model, [prompts[n] for n in some], chosen, None).log_softmax(-1)
        there = padded(chosen)[1].to(logits.device)
        rows = torch.tensor(some, device=logits.device)
        student = logits[rows, : there.shape[1]].log_softmax(-1)
        nats = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1) * there
        found = found.index_copy(0, rows, F.pad(nats, (0, logits.shape[1] - there.shape[1])))
    return found
