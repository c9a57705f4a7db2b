"""The command line of studies; heavy imports inside."""

from typing import Literal

import tyro

from driftlm.cli.bank import show
from driftlm.evaluation.settings import Asking, Golds, QuestionStudy
from driftlm.memories.bank.settings import Aggregation, Way
from driftlm.models.machine import Machine


def study(
    what: tyro.conf.Positional[Literal["qa", "retention", "forgetting", "bank", "cost"]],
    machine: Machine,
    *,
    stream: str = "facts",
    memories: tuple[str, ...] = ("bank",),
    networks: tuple[str, ...] = (),
    documents: int = 1665,
    questions: int = 0,
    seed: int = 0,
    beams: int = 1,
    gold: Golds = "all",
    aggregation: Way = "exact",
    size: int = 0,
    retrieved: int = 1,
    budget: int = 256,
    encoder: str = "states",
    salience_network: str = "",
    learning_rate: float | None = None,
    sweep_documents: int = 64,
    text: tuple[str, ...] = (),
    out: str = "",
    json: bool = False,
) -> int:
    """Measure memories that answer: adapt on a whole stream, then ask.

    Args:
        what: `qa`; `retention` of the first 200 documents' answers as more arrive; `forgetting`: bits per byte on
            unrelated text before and after adapting; `bank`: its ways of aggregation and what it does for running text,
            for one or several networks; `cost` of banks of growing size.
        machine: which model.
        stream: `facts`, or a file of documents with questions.
        memories: for `qa`, `retention` and `forgetting`, of `none`, `context` (the right document as text), `one` (a
            bank of the right document), `bank`, `bm25`, `dense`, and weights that learn from all tokens (`uniform`) or
            the salient ones (`spans`, `tfidf`, `camels`); `uniform+bm25` is both. Differences are from the first.
        networks: folder of the bank's networks, several for `bank`; the bundled ones by default.
        documents: how many of the stream; the largest bank of `cost`.
        questions: at most so many (`qa` and `bank`); 0 for all.
        seed: of the stream of facts, and of the sample where a file has more documents, or there are more questions.
        beams: of the search for an answer; 1 is greedy.
        gold: compare with the best of `all` gold answers, or with the `shortest` alone.
        aggregation: attend to the whole bank (`exact`), to its best documents (`nearest`), to groups (`hierarchical`),
            or to a bank made smaller first.
        size: entries attended to, of a group, or of the smaller bank.
        retrieved: documents that `bm25` and `dense` find for a question, and largest shares of `bank` that count as
            found: recall is of so many.
        budget: most tokens of their texts together.
        encoder: of `dense`: `states` of the language model, `contriever:FOLDER`, `mean:FOLDER` (as all-MiniLM),
            `bge:FOLDER`, `dpr:FOLDER,QUESTION_FOLDER`, or `sentence:FOLDER` (sentence-transformers).
        salience_network: folder of the network of `camels`; empty for the bundled one.
        learning_rate: of the weights that learn; without, the best of seven on documents that are not studied.
        sweep_documents: how many of those.
        text: what `forgetting` reads, files or folders; without, documentation of Python.
        out: folder for the answers as JSON lines (`qa`) or the chart (`retention`).
        json: one JSON object on stdout.
    """
    from driftlm.evaluation.question_studies import studied
    from driftlm.report.tables import show_rows

    settings = QuestionStudy(
        stream=stream,
        memories=memories,
        networks=networks,
        documents=documents,
        questions=questions,
        seed=seed,
        retrieved=retrieved,
        budget=budget,
        encoder=encoder,
        salience_network=salience_network,
        learning_rate=learning_rate,
        sweep_documents=sweep_documents,
        text=text,
        out=out,
    )
    rows = studied(what, machine, settings, Asking(beams, gold), Aggregation(aggregation, size, seed))
    show({"rows": rows}) if json else show_rows(rows)
    return 0
