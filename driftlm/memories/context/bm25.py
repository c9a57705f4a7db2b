"""BM25 in SQLite: documents by id, found by the words they share with a query.

Letters: N documents; of a term t: n_t documents that hold it, f times it stands in a document; of a document: D terms,
A on average.

The score is that of `bm25()` in SQLite's full-text index FTS5 (sqlite.org/fts5.html#the_bm25_function), positive here:
sum_t idf_t · f (k1 + 1) / (f + k1 (1 − b + b D / A)) with k1 = 1.2, b = 0.75 and
idf_t = ln((N − n_t + 0.5) / (n_t + 0.5)), or 1e-6 where that is not above 0: in more than half of the documents.

FTS5 itself ranks every document that holds any word of the query, half of them all for an "in" or "a". Here the
postings are rows of their own: frequent terms are looked up for the documents alone that can still be among the best,
and what is dropped is gone at once.
"""

import math
import re
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from heapq import nlargest
from itertools import accumulate, chain
from pathlib import Path

from torch import Tensor

from driftlm.core.errors import DriftError

K1, B, LEAST_IDF = 1.2, 0.75, 1e-6  # constants of FTS5
LOOK_UP = 5  # what a posting costs by itself, in postings read in a row
CACHE = 64 << 10  # KiB of a file that are kept in memory

SCHEMA = """
CREATE TABLE IF NOT EXISTS bm25_documents (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, terms TEXT NOT NULL, length INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS bm25_postings (
    term TEXT NOT NULL, document INTEGER NOT NULL, times INTEGER NOT NULL, length INTEGER NOT NULL,
    PRIMARY KEY (term, document)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bm25_terms (term TEXT PRIMARY KEY, documents INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bm25_totals (documents INTEGER NOT NULL, length INTEGER NOT NULL);
INSERT INTO bm25_totals SELECT 0, 0 WHERE NOT EXISTS (SELECT * FROM bm25_totals);
"""
TABLES = ("bm25_documents", "bm25_postings", "bm25_terms")


def terms_of(text: str) -> list[str]:
    """Return the runs of letters and digits, without case and accents.

    Example:
        >>> terms_of("Where's the CAFÉ no. 7?")
        ['where', 's', 'the', 'cafe', 'no', '7']
    """
    if not text.isascii():
        apart = unicodedata.normalize("NFKD", text.casefold())
        text = "".join(one for one in apart if not unicodedata.combining(one))
    return re.findall(r"[^\W_]+", text.casefold())


class BM25Index:
    """Documents by id, in the order they were added; one that is replaced goes to the end.

    Any text is a query: its terms count once each, and a document with any of them is found.

    Args:
        database: where the index is kept, beside whatever else is there: an open connection, which commits by itself
            (`isolation_level=None`) or when its owner's transaction does; or the path of a file; or memory.

    Raises:
        DriftError: when it cannot be opened.

    Example:
        >>> index = BM25Index()
        >>> index.add(["a", "b"], ["Ada lives in Lisbon.", "Bo lives in Oslo, near the sea."])
        >>> [id for id, score in index.search("Who lives in OSLO?", 2)]
        ['b', 'a']
    """

    fingerprint = "bm25"

    def __init__(self, database: sqlite3.Connection | str | Path = ":memory:") -> None:
        with sentences():
            if not isinstance(database, sqlite3.Connection):
                database = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
                database.execute(f"PRAGMA cache_size = -{CACHE}")
            self.database = database
            with self.changing():
                for statement in SCHEMA.split(";"):
                    database.execute(statement)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Do all of it or nothing, inside of another transaction as well."""
        with sentences():
            self.database.execute("SAVEPOINT bm25")
            try:
                yield
            except BaseException:
                if self.database.in_transaction:  # SQLite may have taken all of it back by itself
                    self.database.execute("ROLLBACK TO bm25")
                    self.database.execute("RELEASE bm25")
                raise
            self.database.execute("RELEASE bm25")

    @property
    def documents(self) -> list[str]:
        """Return the ids, the oldest first."""
        with sentences():
            return [id for (id,) in self.database.execute("SELECT id FROM bm25_documents ORDER BY number")]

    # ---- changing ---------------------------------------------------------------------------------------------------

    def add(self, ids: Sequence[str], texts: Sequence[str]) -> None:
        """Keep documents, all or none, each in the place of an earlier one of its id."""
        last = dict(zip(ids, range(len(texts)), strict=True))  # where each id comes for the last time
        newest = sorted(last.values())
        with self.changing():
            self._drop([ids[number] for number in newest if self._held(ids[number])])
            postings, lengths = [], []
            for place in newest:
                held = Counter(terms_of(texts[place]))
                lengths.append(held.total())
                query = "INSERT INTO bm25_documents (id, terms, length) VALUES (?, ?, ?)"
                number = self.database.execute(query, (ids[place], " ".join(held), lengths[-1])).lastrowid
                postings += [(term, number, times, lengths[-1]) for term, times in held.items()]
            # In the order of the table, which is what makes a large one in a file fast.
            self.database.executemany("INSERT INTO bm25_postings VALUES (?, ?, ?, ?)", sorted(postings))
            self._count(lengths, [term for term, *_ in postings], 1)

    def drop(self, *ids: str) -> None:
        """Remove documents, all or none: what is found afterwards is as if they had never been added.

        Raises:
            DriftError: when one is not held.
        """
        with self.changing():
            self._drop(list(dict.fromkeys(ids)))

    def reset(self) -> None:
        """Hold nothing."""
        with self.changing():
            for table in TABLES:
                self.database.execute(f"DELETE FROM {table}")
            self.database.execute("UPDATE bm25_totals SET documents = 0, length = 0")

    def _held(self, id: str) -> tuple[int, str, int] | None:
        query = "SELECT number, terms, length FROM bm25_documents WHERE id = ?"
        found: tuple[int, str, int] | None = self.database.execute(query, (id,)).fetchone()
        return found

    def _drop(self, ids: Sequence[str]) -> None:
        postings, lengths = [], []
        for id in ids:
            held = self._held(id)
            if held is None:
                raise DriftError(f"the index holds no document {id!r}; give the id of one that was added.")
            number, terms, length = held
            lengths.append(length)
            postings += [(term, number) for term in terms.split()]
            self.database.execute("DELETE FROM bm25_documents WHERE number = ?", (number,))
        self.database.executemany("DELETE FROM bm25_postings WHERE term = ? AND document = ?", postings)
        self._count(lengths, [term for term, _ in postings], -1)

    def _count(self, lengths: Sequence[int], terms: Sequence[str], sign: int) -> None:
        """Keep the totals, and in how many documents each term is."""
        totals = sign * len(lengths), sign * sum(lengths)
        self.database.execute("UPDATE bm25_totals SET documents = documents + ?, length = length + ?", totals)
        query = """INSERT INTO bm25_terms VALUES (?, ?)
            ON CONFLICT (term) DO UPDATE SET documents = documents + excluded.documents"""
        self.database.executemany(query, [(term, sign * times) for term, times in Counter(terms).items()])
        if sign < 0:
            query = "DELETE FROM bm25_terms WHERE term = ? AND documents = 0"
            self.database.executemany(query, [(term,) for term in set(terms)])

    # ---- state ------------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Return no tensors: the texts say all."""
        return {}

    def restore(self, ids: Sequence[str], texts: Sequence[str], tensors: dict[str, Tensor]) -> None:
        """Hold these documents, in this order."""
        with self.changing():
            self.reset()
            self.add(ids, texts)

    # ---- searching --------------------------------------------------------------------------------------------------

    def search(self, query: str, k: int) -> list[tuple[str, float]]:
        """Return the k best documents that share a term with the query, and their scores; equal ones as they were
        added.
        """
        if k < 1:
            raise DriftError(f"{k} documents were asked for; give 1 or more.")
        with self.changing():  # one reading of the file for all
            total, length = self.database.execute("SELECT documents, length FROM bm25_totals").fetchone()
            holding: dict[str, int] = {}
            for term in dict.fromkeys(terms_of(query)):
                row = self.database.execute("SELECT documents FROM bm25_terms WHERE term = ?", (term,)).fetchone()
                if row is not None:
                    holding[term] = row[0]
            scores = self._scores(holding, total, length / total, k) if holding else {}
            best = sorted(scores, key=lambda number: (-scores[number], number))[:k]
            names = "SELECT id FROM bm25_documents WHERE number = ?"
            return [(self.database.execute(names, (number,)).fetchone()[0], scores[number]) for number in best]

    def _scores(self, holding: dict[str, int], total: int, average: float, k: int) -> dict[int, float]:
        """Return the scores of documents by number, all that are among the k best or equal to one of them.

        The rarest terms come first. A term adds less than idf (k1 + 1): once the k-th best score is above what all the
        others can add, no more documents come in, and those that are further behind than that go. For the few that are
        left, frequent terms are looked up one by one (the idea of MaxScore, Turtle and Flood 1995).

        Args:
            holding: in how many documents each term is.
            total: N.
            average: A.
            k: how many are wanted.
        """
        terms = sorted(holding, key=holding.__getitem__)
        most = [(K1 + 1) * inverse_frequency(holding[term], total) for term in terms]
        reach = list(accumulate(most))  # what a document can have from the first terms, and from those after each
        left = list(accumulate([0.0, *reversed(most[1:])]))[::-1]
        part = "SELECT document, ? * times / (times + ? + ? * length) FROM bm25_postings WHERE term = ?"
        scores: dict[int, float] = {}
        closed = False  # whether no more documents come in
        for place, term in enumerate(terms):
            values = most[place], K1 * (1 - B), K1 * B / average, term
            rows: Iterable[tuple[int, float]] = self.database.execute(part, values)
            if closed and LOOK_UP * len(scores) < holding[term]:
                one = f"{part} AND document = ?"
                rows = chain.from_iterable(self.database.execute(one, (*values, number)) for number in list(scores))
            for number, score in rows:
                if number in scores:
                    scores[number] += score
                elif not closed:
                    scores[number] = score
            rest = left[place]
            if rest < reach[place] and len(scores) >= k:
                least = nlargest(k, scores.values())[-1]
                closed = closed or least > rest
                if closed:
                    scores = {number: score for number, score in scores.items() if score + rest >= least}
        return scores


def inverse_frequency(holding: int, total: int) -> float:
    """Return the idf of a term that `holding` of `total` documents have."""
    idf = math.log((total - holding + 0.5) / (holding + 0.5))
    return idf if idf > 0 else LEAST_IDF


@contextmanager
def sentences() -> Iterator[None]:
    """Say what goes wrong with SQLite as `DriftError`."""
    try:
        yield
    except sqlite3.Error as error:
        raise DriftError(f"the BM25 index cannot be read or written ({error}); check its file and rights.") from error
