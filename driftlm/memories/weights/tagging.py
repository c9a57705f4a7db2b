"""Where a text names somebody or something, or tells a date: the spans of salient span learning.

Source: salient span masking in REALM (Guu et al. 2020, section 3.4: named entities and dates); as weights of an online
loss in CaMeLS (Hu et al. 2023).
"""

import re
from collections.abc import Callable

from driftlm.core.errors import DriftError

Tagger = Callable[[str], list[tuple[int, int]]]

MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
DAY = r"\d{1,2}(?:st|nd|rd|th)?"
DATE = re.compile(
    rf"\b(?:\d{{4}}-\d\d-\d\d|(?:{DAY} (?:of )?{MONTH}(?:,? \d{{4}})?)|(?:{MONTH} {DAY}(?:, \d{{4}})?)"
    rf"|{MONTH},? \d{{4}}|(?:1\d|20)\d\d)\b"
)
CAPITALISED = r"[A-ZÀ-ÖØ-Þ][\w’'-]*"
JOINING = r"(?:(?:of|the|and|de|del|der|di|la|van|von|&) ){1,2}"
NAME = re.compile(rf"\b{CAPITALISED}(?: (?:{JOINING})?{CAPITALISED})*")
SENTENCE_START = re.compile(r"(?:^|[.!?:;\n][\"”’')\]]*\s+|[\"“‘(\[])$")
# Capitalised for no other reason than where they stand, or always.
NO_NAMES = re.compile(
    "A|After|All|Also|Although|An|And|As|At|Before|Both|But|By|During|Each|Even|Every|Few|For|From|He|Her|Here|His|How|"
    "However|I|If|In|Is|It|Its|Many|More|Most|My|No|Nor|Not|Now|Of|On|One|Only|Or|Our|She|Since|So|Some|Such|That|The|"
    "Their|Then|There|These|They|This|Those|Though|Through|Thus|To|Today|Two|Under|Until|We|What|When|Where|Which|"
    "While|Who|Whose|Why|With|You|Your"
)
TOLD_BY_SPACY = frozenset({"TIME", "PERCENT", "MONEY", "QUANTITY", "ORDINAL", "CARDINAL"})  # numbers, not who or when


def spans_by_rule(text: str) -> list[tuple[int, int]]:
    """Names and dates, by rule; made for English.

    - A name is one or more capitalised words in a row, which `of`, `the`, `and`, `de`, `van` and the like may join.
      Words that are capitalised by custom alone (`The`, `When`, `I`) begin none.
    - Where a sentence starts a single capitalised word is none, for most sentences start with no name.
    - A date is a year from 1000 to 2099, a month with a day or a year, or YYYY-MM-DD.

    Example:
        >>> text = "When it rained, the Duke of York left for Paris on 3 May 1854. Nobody saw him."
        >>> [text[start:end] for start, end in spans_by_rule(text)]
        ['Duke of York', 'Paris', '3 May 1854']
    """
    dates = [found.span() for found in DATE.finditer(text)]
    spans = list(dates)
    for found in NAME.finditer(text):
        start, end = found.span()
        words = text[start:end].split(" ")
        first = SENTENCE_START.search(text[max(0, start - 8) : start]) is not None
        while words and (NO_NAMES.fullmatch(words[0]) or words[0].islower()):
            start, words, first = start + len(words[0]) + 1, words[1:], False
        if not words or (first and len(words) == 1):
            continue
        if not any(start < date_end and date_start < end for date_start, date_end in dates):
            spans.append((start, end))
    return sorted(spans)


def tagger_of(name: str) -> Tagger:
    """The tagger `rules`, or `spacy[:MODEL]`.

    Raises:
        DriftError: for another name, or where spaCy or its model is not installed.
    """
    if name == "rules":
        return spans_by_rule
    kind, _, model = name.partition(":")
    if kind != "spacy":
        raise DriftError(f"`Learning.tagger` was {name!r}; give rules, spacy or spacy:MODEL.")
    model = model or "en_core_web_sm"
    try:
        import spacy
    except ImportError as error:
        raise DriftError(
            f"`Learning.tagger` {name} needs spaCy; install it with `pip install 'driftlm[ner]'`, or give "
            f"`Learning.tagger` rules."
        ) from error
    try:
        language = spacy.load(model)
    except OSError as error:
        raise DriftError(
            f"`Learning.tagger` {name}: spaCy has no model {model!r} here; install it with `python -m spacy download "
            f"{model}`, "
            f"or give `Learning.tagger` rules."
        ) from error

    def spans_by_spacy(text: str) -> list[tuple[int, int]]:
        found = language(text).ents
        return [(one.start_char, one.end_char) for one in found if one.label_ not in TOLD_BY_SPACY]

    return spans_by_spacy
