"""The verb `train qa`: tune a model, by a LoRA, to answer from a document in its context, or from what it knows.

The loss is the nats of answer tokens. It ends early when held-out answers get no better, and keeps the best.
Source of the tuning and of early stopping: the base models of CaMeLS (Hu et al. 2023).
"""

import math
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from driftlm.core.errors import DriftError
from driftlm.evaluation.answering import exact_match
from driftlm.memories.bank.networks import ADAPTER
from driftlm.models.answers import answer_nats, generate
from driftlm.models.batching import asked_in_batches
from driftlm.models.loading import LanguageModel
from driftlm.models.machine import Machine
from driftlm.models.prompting import LONGEST_ANSWER, answer_ids, padded, prompt_ids
from driftlm.models.trainable import Trainable, choose
from driftlm.runs import formats
from driftlm.streams.facts import World
from driftlm.streams.questions import QuestionStream
from driftlm.training.loop import Loop, divided
from driftlm.training.settings import AnswerRun, AnswerTraining

WATCHED = 100  # held-out questions
CHANGED = 0.2  # share of subjects that a document tells news of


@dataclass(frozen=True)
class Lesson:
    """Texts for the context, none for a closed book, and questions with an answer each."""

    texts: list[str]
    asked: list[tuple[str, str]]

    @property
    def context(self) -> str:
        """Return all texts, a line each."""
        return "\n".join(self.texts)


Lessons = Callable[[int], list[Lesson]]  # step -> what it teaches
Row = tuple[list[int], list[int]]  # token ids, and 1 where one belongs to an answer


def train(machine: Machine, training: AnswerTraining, run: AnswerRun) -> dict[str, Any]:
    """Train, or go on with the training that the folder of the run holds; returns the last line of its log.

    Raises:
        DriftError: for a stream that cannot be read, other settings than the checkpoint's, or a lost loss.
    """
    out = Path(run.out)
    language_model = machine.load()
    learned, held_out = sources(run.stream, training)
    trainer = AnswerTrainer(language_model, training, learned, held_out, run.autocast)
    loop = Loop(
        trainer,
        out,
        run.log,
        run.check,
        means=trainer.means,
        checked=trainer.checked,
        shown=shown,
        done=lambda: 0 < training.patience <= trainer.progress.waited,
        threads=machine.threads,
    )
    resumed = loop.resume(language_model.device)
    out.mkdir(parents=True, exist_ok=True)
    if resumed:
        loop.trim()
    line = loop.run()
    trainer.save(out / ADAPTER)
    return line


@dataclass
class EarlyStopping:
    """What is counted.

    Attributes:
        step: steps taken.
        best: least held-out nats so far.
        waited: checks since then.
    """

    step: int = 0
    best: float = math.inf
    waited: int = 0


class AnswerTrainer:
    """A LoRA in a language model with its optimizer; everything that a resumed training needs is in `state`.

    Args:
        language_model: frozen but for the LoRA that is put into it.
        settings: how.
        lessons: what is taught.
        held_out: lessons that never are.
        autocast: whether the model computes in bfloat16.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        settings: AnswerTraining,
        lessons: Lessons,
        held_out: list[Lesson],
        autocast: bool = False,
    ) -> None:
        self.language_model, self.settings, self.autocast = language_model, settings, autocast
        self.lessons, self.held_out, self.progress = lessons, held_out, EarlyStopping()
        self.trainable = low_rank(language_model, settings, fast=not autocast)
        self.parameters = list(self.trainable.parameters.values())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=settings.rate, betas=(0.9, 0.98), weight_decay=0.0)
        self.best = [parameter.detach().clone() for parameter in self.parameters]

    def step(self) -> tuple[float, float]:
        """Take one step of the optimizer; return the nats of a token of the answers and of the rest."""
        step, settings = self.progress.step, self.settings
        rows = [row_of(self.language_model, lesson, settings.longest) for lesson in self.lessons(step)]
        answer, text = self.losses(rows)
        (answer + settings.text * text if settings.text else answer).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate_at(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.progress.step += 1
        return answer.item(), text.item()

    def computing(self) -> AbstractContextManager[Any]:
        """Compute in bfloat16 where that was asked for."""
        return torch.autocast(self.language_model.device.type, torch.bfloat16, enabled=self.autocast)

    def losses(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Mean nats of the tokens of answers, and of the rest where these count, else 0."""
        model, device = self.language_model.model, self.language_model.device
        ids, there = (one.to(device) for one in padded([row for row, _ in rows]))
        marks = padded([mark for _, mark in rows])[0].to(device)[:, 1:].bool()
        wanted = there[:, 1:] if self.settings.text else marks
        with self.computing():
            hidden = model.base_model(input_ids=ids[:, :-1], use_cache=False)[0]
            logits = model.get_output_embeddings()(hidden[wanted])
        nats = F.cross_entropy(logits.float(), ids[:, 1:][wanted], reduction="none")
        answers = marks[wanted]
        return nats[answers].mean(), nats[~answers].mean() if self.settings.text else nats.new_zeros(())

    def means(self, losses: Sequence[tuple[float, float]]) -> dict[str, float]:
        """Return a line's part about some steps."""
        nats, text = (sum(one) / len(losses) for one in zip(*losses, strict=True))
        return {"nats": round(nats, 4)} | ({"text": round(text, 4)} if self.settings.text else {})

    def checked(self) -> dict[str, Any]:
        """Return held-out results; the best parameters are kept."""
        with self.computing():
            found = asked(self.language_model, self.held_out, self.settings.longest)
        self.progress.waited += 1
        if found["nats"] < self.progress.best:
            self.progress.best, self.progress.waited = found["nats"], 0
            self.best = [parameter.detach().clone() for parameter in self.parameters]
        return {"held_out": found}

    def save(self, folder: Path) -> None:
        """Write the best parameters as a PEFT folder, in place of earlier ones."""
        self.put(self.best)
        shutil.rmtree(folder, ignore_errors=True)
        formats.save(self.language_model, self.trainable, folder)

    def put(self, values: Sequence[Tensor]) -> None:
        """Let the parameters hold `values`."""
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.data = value

    def state(self) -> dict[str, Any]:
        """Return everything a resumed training needs."""
        return {
            "learned": [parameter.data for parameter in self.parameters],
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
            "settings": asdict(self.settings),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; its length and patience may be others."""
        before, now = state["settings"], asdict(self.settings)
        other = [name for name in now if name not in ("steps", "patience") and before.get(name) != now[name]]
        if other:
            raise DriftError(
                f"the checkpoint was made with {other[0]} {before.get(other[0])}, not {now[other[0]]}; give the same "
                f"settings, or another `TrainingRun.out`."
            )
        self.put(state["learned"])
        self.best, self.progress = state["best"], EarlyStopping(**state["progress"])
        self.optimizer.load_state_dict(state["optimizer"])


def low_rank(language_model: LanguageModel, settings: AnswerTraining, *, fast: bool) -> Trainable:
    """Return a new LoRA, its first factor drawn with a variance of 1 / inputs; the second is 0."""
    trainable = choose(language_model, "lora", rank=settings.rank, targets=settings.target_modules)
    generator = torch.Generator().manual_seed(settings.seed)
    for name, parameter in trainable.parameters.items():
        if "lora_A" in name:
            drawn = torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5
            parameter.data = drawn.to(parameter)
    if not fast:
        # The fast way adds products in place, which needs one type for all.
        for module in language_model.model.modules():
            vars(module).pop("forward", None)
    return trainable


def row_of(language_model: LanguageModel, lesson: Lesson, longest: int) -> Row:
    """Return the questions of a lesson one after the other, its texts before the first, cut to `longest` tokens."""
    ids, marks = list[int](), list[int]()
    for number, (question, answer) in enumerate(lesson.asked):
        prompt, gold = prompt_of(language_model, lesson if number == 0 else Lesson([], []), question, answer, longest)
        ids += prompt + gold
        marks += [0] * len(prompt) + [1] * len(gold)
    return ids[:longest], marks[:longest]


def prompt_of(
    language_model: LanguageModel, lesson: Lesson, question: str, answer: str, longest: int
) -> tuple[list[int], list[int]]:
    """Return the tokens of a question behind the lesson's texts, or alone where these do not fit, and of its answer."""
    gold = answer_ids(language_model, answer)
    prompt = prompt_ids(language_model, question, lesson.context)
    if lesson.texts and len(prompt) + len(gold) > longest:
        prompt = prompt_ids(language_model, question)
    return prompt, gold


def asked(language_model: LanguageModel, lessons: Sequence[Lesson], longest: int) -> dict[str, Any]:
    """Return the nats of an answer token of every lesson's first question, and strict exact match by whether it has a
    text.
    """
    total, tokens = 0.0, 0
    right: dict[str, list[bool]] = {}
    rows = [prompt_of(language_model, one, *one.asked[0], longest) for one in lessons]
    answer = max(LONGEST_ANSWER, *(len(gold) for _, gold in rows))
    for places in asked_in_batches(language_model, [len(prompt) + answer for prompt, _ in rows], answer):
        some = [lessons[place] for place in places]
        prompts, golds = [rows[place][0] for place in places], [rows[place][1] for place in places]
        with torch.no_grad():
            nats, there, _ = answer_nats(language_model, prompts, golds, None)
        total, tokens = total + nats.sum().item(), tokens + int(there.sum())
        for lesson, said in zip(some, generate(language_model, prompts, None), strict=True):
            found = exact_match(said, [lesson.asked[0][1]])
            right.setdefault("em" if lesson.texts else "closed_book_em", []).append(found)
    return {"nats": round(total / tokens, 5)} | {k: round(sum(one) / len(one), 3) for k, one in sorted(right.items())}


def sources(stream: str, training: AnswerTraining) -> tuple[Lessons, list[Lesson]]:
    """Return what is taught, and what is watched: names or documents never trained on."""
    seed, batch = training.seed, training.batch
    if stream == "facts":
        unseen = World("validation", random.Random(f"{seed} held out"))

        def of_facts(step: int) -> list[Lesson]:
            world = World("train", random.Random(f"{seed} {step}"))
            return [fact_lesson(world, training.context, training.distracting) for _ in range(batch)]

        return of_facts, [fact_lesson(unseen, training.context, training.distracting) for _ in range(WATCHED)]
    learned, others = divided(stream, seed)
    if not learned.questions or not others.questions:
        raise DriftError(
            f"`TrainingRun.stream` {stream} has too few documents with questions to hold some out; give more."
        )

    def of_stream(step: int) -> list[Lesson]:
        generator = random.Random(f"{seed} {step}")
        return [stream_lesson(learned, generator, training.context, training.distracting) for _ in range(batch)]

    generator = random.Random(f"{seed} held out")
    watched = [stream_lesson(others, generator, training.context, training.distracting) for _ in range(WATCHED)]
    return of_stream, watched


def fact_lesson(world: World, context: float, distracting: int = 0) -> Lesson:
    """Return somebody's document with a question for every attribute, or one question without it."""
    subject = world.subject()
    with_document = world.random.random() < context
    news = ""
    if world.random.random() < CHANGED:
        subject, news = world.changed(subject)
    text = world.told(subject, news)
    attributes = sorted(subject.values)
    world.random.shuffle(attributes)
    questions = [world.asked(subject, attribute) for attribute in attributes[: None if with_document else 1]]
    asked = [(question.text, question.answers[0]) for question in questions]
    if not with_document:
        return Lesson([], asked)
    others = [world.told(world.subject()) for _ in range(world.random.randint(0, distracting) if distracting else 0)]
    return Lesson(among(text, others, world.random), asked)


def stream_lesson(stream: QuestionStream, generator: random.Random, context: float, distracting: int = 0) -> Lesson:
    """Return a document of a stream with its questions in any order, or one of them without it."""
    name = generator.choice(stream.questions).document
    questions = [question for question in stream.questions if question.document == name]
    generator.shuffle(questions)
    asked = [(question.text, generator.choice(question.answers)) for question in questions]
    if generator.random() >= context:
        return Lesson([], asked[:1])
    texts = {document.id: document.text for document in stream.documents}
    text = texts.pop(name)
    count = generator.randint(0, min(distracting, len(texts)))
    return Lesson(among(text, generator.sample(list(texts.values()), count), generator), asked)


def among(text: str, others: list[str], generator: random.Random) -> list[str]:
    """Put a text somewhere among others."""
    place = generator.randrange(len(others) + 1) if others else 0
    return [*others[:place], text, *others[place:]]


def shown(line: dict[str, Any]) -> str:
    """Return a log line as a person reads it."""
    text = f"step {line['step']:>5} {line['seconds']:7.0f} s  answer {line['nats']:.3f} nats"
    if found := line.get("held_out"):
        text += f"  unseen: {found['nats']:.3f} nats"
        text += f", exact match {found['em']:.2f}" if "em" in found else ""
        text += f", closed book {found['closed_book_em']:.2f}" if "closed_book_em" in found else ""
    return text
