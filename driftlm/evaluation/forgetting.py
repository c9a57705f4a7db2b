"""What adapting to a stream does to text that has nothing to do with it."""

from collections.abc import Sequence
from pydoc_data.topics import topics
from typing import Any

from driftlm.core.errors import DriftError
from driftlm.evaluation.candidates import GIVEN, Terms, parts_of, taking_part
from driftlm.evaluation.sweep import chosen_rate, comparable
from driftlm.memories.loop import read_stream
from driftlm.memories.registries import MEMORIES
from driftlm.streams.documents import Document
from driftlm.streams.questions import QuestionStream
from driftlm.streams.windows import Windows

TOPICS = ("strings", "while", "exceptions", "operator-summary")  # of the documentation that comes with Python
WINDOWS = Windows("overlapping", context=256, stride=128)


def unrelated() -> list[Document]:
    """Return the text that is on every machine; it differs a little between versions of Python.

    Example:
        >>> len(unrelated())
        4
    """
    return [Document(topic, topics[topic]) for topic in TOPICS]


def forgotten(
    terms: Terms,
    stream: QuestionStream,
    memories: Sequence[str],
    texts: Sequence[Document],
    validation: QuestionStream | None = None,
) -> list[dict[str, Any]]:
    """Return the bits per byte on unrelated texts before and after adapting on the stream: one row a memory.

    Nothing is learned from the texts. Sources are asked by the window before, as in all running text.

    Keys of a row: memory, documents (of the stream), texts, bytes, bits_per_byte_before, bits_per_byte_after,
    bits_per_byte_difference, learning_rate, encoder (of `dense`, else None). Arguments and errors as of
    `study.compare`; `texts` are not empty.

    Raises:
        DriftError: also for memories that are given the right document of a question, of which there is none here.
    """
    rows = []
    names = comparable(memories, terms, validation)
    for name in names:
        if name in MEMORIES.others:
            raise DriftError(f"{name} cannot be kept from learning while other texts are read; leave it out.")
        if given := [part for part in parts_of(name) if part in GIVEN]:
            raise DriftError(f"no question is asked where {given[0]} would give its document; leave it out.")
    for name in names:
        chosen = chosen_rate(name, terms, validation)
        with taking_part(name, terms, stream.documents, chosen.rate or 0.0) as candidate:
            candidate.adapt(stream.documents)
            candidate.memory.stay(WINDOWS)
            *_, last = read_stream(candidate.memory, texts, baseline=candidate.memory.static())
        before, after = last.totals.static_bits_per_byte or 0.0, last.totals.bits_per_byte
        row = {"memory": name, "documents": len(stream.documents), "texts": len(texts), "bytes": last.totals.bytes}
        row |= {"bits_per_byte_before": before, "bits_per_byte_after": after}
        rows.append(
            row
            | {"bits_per_byte_difference": after - before, "learning_rate": chosen.rate, "encoder": candidate.encoder}
        )
    return rows
