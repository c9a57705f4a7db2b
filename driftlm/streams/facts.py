"""A synthetic world of facts that change: people, places and companies, told in varied sentences from a seed.

The grammar is `fact_words`. Names are pairs of words, and have a middle word where a stream needs more of them than
there are pairs; a tenth of all names is kept for validation and a tenth for the test by a hash of the name, so that an
entity asked about in a test never occurred in training.
"""

import hashlib
import math
import random
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Literal

from driftlm.core.errors import DriftError
from driftlm.streams.documents import Document
from driftlm.streams.fact_words import DISTRACTIONS, KINDS, Kind
from driftlm.streams.questions import Question, QuestionStream

Split = Literal["train", "validation", "test"]
Telling = tuple["Subject", str, str]  # of whom, in which document, with which attribute as news
FIRST_DAY = date(1700, 1, 1)
PATIENCE = 200  # draws of a known name in a row, after which there are no new ones to speak of


@dataclass(frozen=True)
class Subject:
    """Somebody or something with attributes.

    Attributes:
        kind: `person`, `place` or `company`.
        name: two words or more.
        values: attribute -> value.
        words: of the name, the last by itself.
    """

    kind: str
    name: str
    values: dict[str, str]
    words: tuple[str, str]


def split_of(name: str) -> Split:
    """Return where a name belongs: 80 % training, 10 % validation, 10 % test, by its hash.

    Example:
        >>> split_of("Ada Lowell") in ("train", "validation", "test")
        True
    """
    place = hashlib.sha256(name.encode()).digest()[0] % 10
    return "test" if place == 0 else "validation" if place == 1 else "train"


class World:
    """Draws subjects and tells of them; everything it says follows from the random generator it is given.

    Attributes:
        middle: words between the first and the last of a name; set it where names of fewer have run out.

    Example:
        >>> world = World("train", random.Random(0))
        >>> subject = world.subject()
        >>> all(value in world.told(subject) for value in subject.values.values())
        True
    """

    def __init__(self, split: Split, generator: random.Random) -> None:
        self.split, self.random, self.middle = split, generator, 0

    def subject(self, like: Subject | None = None) -> Subject:
        """Return somebody of this split, by chance known already; of the kind of `like` and with a word of its name."""
        kind = like.kind if like else self.random.choice(sorted(KINDS))
        words = KINDS[kind]
        while True:
            given = [self.random.choice(words.first) for _ in range(1 + self.middle)]
            first, second = words.between.join(given), self.random.choice(words.second)
            if like:
                shared = self.random.choice((0, 1))
                first, second = ((like.words[0], second), (first, like.words[1]))[shared]
            name = words.name(first, second)
            if split_of(name) == self.split and len(set(given)) == len(given):
                values = {a.name: self.random.choice(a.values) for a in words.attributes}
                return Subject(kind, name, values, (first, second))

    def changed(self, subject: Subject) -> tuple[Subject, str]:
        """Return the same subject later, and the attribute that has another value now."""
        attribute = self.random.choice(KINDS[subject.kind].attributes)
        others = [value for value in attribute.values if value != subject.values[attribute.name]]
        return replace(subject, values=subject.values | {attribute.name: self.random.choice(others)}), attribute.name

    def told(self, subject: Subject, news: str = "") -> str:
        """Return a document: one sentence an attribute, in any order; the name first, then often a pronoun.

        Args:
            subject: whom it is about.
            news: attribute that is told as a change, and first.
        """
        words = KINDS[subject.kind]
        attributes = list(words.attributes)
        self.random.shuffle(attributes)
        attributes.sort(key=lambda attribute: attribute.name != news)
        sentences = []
        for number, attribute in enumerate(attributes):
            forms = attribute.news if attribute.name == news else attribute.statements
            who = subject.name if number == 0 or self.random.random() < 0.3 else self.pronoun(subject, words)
            sentence = self.random.choice(forms).format(who=who, value=subject.values[attribute.name])
            sentences.append(sentence[0].upper() + sentence[1:])
        return " ".join(sentences)

    def pronoun(self, subject: Subject, words: Kind) -> str:
        """Return what stands for the name later in a document; always the same for one name."""
        return words.pronouns[sum(map(ord, subject.name)) % len(words.pronouns)]

    def asked(self, subject: Subject, attribute: str, document: str = "") -> Question:
        """Return a question for one attribute, in one of several wordings."""
        form = self.random.choice(next(a.questions for a in KINDS[subject.kind].attributes if a.name == attribute))
        return Question(
            form.format(who=subject.name), (subject.values[attribute],), document, kind=f"{subject.kind} {attribute}"
        )

    def any_attribute(self, subject: Subject) -> str:
        """Return one of the subject's attributes."""
        return self.random.choice(sorted(subject.values))

    def distraction(self) -> str:
        """Return a document that answers nothing."""
        return self.random.choice(DISTRACTIONS["forms"]).format(
            **{slot: self.random.choice(words) for slot, words in DISTRACTIONS.items() if slot != "forms"}
        )


def facts(
    documents: int = 1665, *, seed: int = 0, split: Split = "test", changed: float = 0.1, distractors: float = 0.05
) -> QuestionStream:
    """Return a stream of documents about different subjects, in the order of their dates, and one question a subject.

    Args:
        documents: how many, the later ones about changes and the distracting ones included.
        seed: the same seed gives the same stream.
        split: which names.
        changed: share of the subjects that a later document tells of again, with one value changed: their question
            asks for that value, and the newest wins.
        distractors: share of documents that nobody asks about.

    Raises:
        DriftError: for less than one document, more than there are days in the calendar or shares outside 0 ... 1.

    Example:
        >>> stream = facts(20, seed=1)
        >>> len(stream.documents), stream.questions[0].answers[0] in " ".join(d.text for d in stream.documents)
        (20, True)
    """
    days = (date.max - FIRST_DAY).days
    if not 1 <= documents <= days:
        raise DriftError(f"`facts.documents` was {documents}; give 1 to {days:,}, a day each.")
    if not (0 <= changed <= 1 and 0 <= distractors < 1):
        raise DriftError(f"the shares were {changed} (changed) and {distractors} (distractors); give 0 to 1.")
    world = World(split, random.Random(f"{seed} {split}"))
    distracting = min(round(distractors * documents), documents - 1)
    subjects = math.ceil((documents - distracting) / (1 + changed))
    later = documents - distracting - subjects
    seen: dict[str, Subject] = {}
    in_vain = 0
    while len(seen) < subjects:
        subject = world.subject()
        in_vain = in_vain + 1 if subject.name in seen else 0
        seen.setdefault(subject.name, subject)
        if in_vain > PATIENCE:
            world.middle, in_vain = world.middle + 1, 0
    told: list[tuple[Subject | None, str]] = [(subject, "") for subject in seen.values()]
    told += [(None, "")] * distracting
    world.random.shuffle(told)
    places = {subject.name: place for place, (subject, _) in enumerate(told) if subject}
    # A change comes anywhere after what it changes.
    additions: dict[int, list[tuple[Subject, str]]] = {}
    changing = world.random.sample(sorted(seen), later)
    for name in changing:
        after = world.random.randrange(places[name], len(told))
        additions.setdefault(after, []).append(world.changed(seen[name]))
    order: list[tuple[Subject | None, str]] = []
    for place, one in enumerate(told):
        order += [one, *additions.get(place, [])]
    written: list[Document] = []
    newest: dict[str, Telling] = {}
    older: dict[str, Telling | None] = {}
    for number, (who, news) in enumerate(order):
        name = f"{split}-{seed}-{number}"
        text = world.told(who, news) if who else world.distraction()
        written.append(Document(name, text, (FIRST_DAY + timedelta(days=number)).isoformat()))
        if who is not None:
            older[who.name] = newest.get(who.name)
            newest[who.name] = who, name, news
    questions = []
    for number, (name, (teller, document, news)) in enumerate(newest.items()):
        question = world.asked(teller, news or world.any_attribute(teller), document)
        before = older[name]
        old = before[0].values[news] if before is not None and news else ""
        questions.append(replace(question, id=f"{split}-{seed}-q{number}", superseded=old))
    return QuestionStream(tuple(written), tuple(questions), f"facts {split}, seed {seed}")
