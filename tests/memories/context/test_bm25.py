"""BM25 in SQLite: the scores of FTS5 and of a plain loop, whatever came and went before; any text is a query."""

import math
import random
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftlm import DriftError
from driftlm.memories.bank.modulations import Facts
from driftlm.memories.bank.store import BankStore
from driftlm.memories.context.bm25 import BM25Index, terms_of

WORDS = ["in", "a", "the", "sea", "Oslo", "Ada", "Bo", "harp"]
texts = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
# What happens to an index: documents of few ids come, again and again, and go.
changes = st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | texts), max_size=12)


def built(held: dict[str, str]) -> BM25Index:
    index = BM25Index()
    index.add(list(held), list(held.values()))
    return index


def in_a_loop(held: dict[str, str], query: str) -> dict[str, float]:
    """BM25 as FTS5 defines it, from lists of words."""
    rows = {id: text.lower().split() for id, text in held.items()}
    average = sum(map(len, rows.values())) / max(1, len(rows))
    scores: dict[str, float] = {}
    for word in set(query.lower().split()):
        holding = sum(word in row for row in rows.values())
        idf = math.log((len(rows) - holding + 0.5) / (holding + 0.5))
        for id, row in rows.items():
            if word in row:
                times = row.count(word)
                part = times * 2.2 / (times + 1.2 * (0.25 + 0.75 * len(row) / average))
                scores[id] = scores.get(id, 0.0) + (idf if idf > 0 else 1e-6) * part
    return scores


def by_fts5(held: dict[str, str], query: str) -> dict[str, float]:
    """What SQLite's full-text index says itself."""
    database = sqlite3.connect(":memory:")
    database.execute("CREATE VIRTUAL TABLE held USING fts5 (id UNINDEXED, text)")
    database.executemany("INSERT INTO held VALUES (?, ?)", held.items())
    match = " OR ".join(f'"{word}"' for word in sorted(set(query.lower().split())))
    return dict(database.execute("SELECT id, -bm25(held) FROM held WHERE held MATCH ?", (match,)))


def test_a_score_computed_by_hand() -> None:
    index = built({"a": "harp harp sea", "b": "sea", "c": "oslo oslo", "d": "bo ada"})
    (found,) = index.search("harp", 5)
    # idf = ln((4 - 1 + 0.5) / (1 + 0.5)) = 0.8473; 8 terms / 4 documents = 2 on average;
    # 2 · 2.2 / (2 + 1.2 (0.25 + 0.75 · 3 / 2)) = 4.4 / 3.65 = 1.2055
    assert found == ("a", pytest.approx(0.8472979 * 1.2054795, abs=1e-6))
    # "sea" is in half of all: ln(2.5 / 2.5) = 0, where FTS5 takes 1e-6.
    assert dict(index.search("sea", 5))["b"] == pytest.approx(1e-6 * 2.2 / (1 + 1.2 * (0.25 + 0.75 / 2)), rel=1e-9)


@settings(max_examples=60)
@given(changes, texts, st.integers(1, 6))
def test_scores_are_those_of_fts5_and_of_a_loop_after_any_changes(
    steps: list[tuple[str, str | None]], query: str, k: int
) -> None:
    index, held = BM25Index(), dict[str, str]()
    for id, text in steps:
        if text is not None:
            index.add([id], [text])
        elif id in held:
            index.drop(id)
        held.pop(id, None)
        if text is not None:
            held[id] = text
    assert index.documents == list(held)
    found = index.search(query, k)
    expected = in_a_loop(held, query)
    assert [score for _, score in found] == pytest.approx(sorted(expected.values(), reverse=True)[:k], abs=1e-9)
    assert dict(found) == pytest.approx({id: expected[id] for id, _ in found}, abs=1e-9)
    if query:
        assert expected == pytest.approx(by_fts5(held, query), abs=1e-9)
    at_once = built(held)
    assert at_once.search(query, k) == found  # and bit-equal
    dump = [one.database.execute("SELECT * FROM bm25_terms ORDER BY term").fetchall() for one in (index, at_once)]
    assert dump[0] == dump[1]


@pytest.mark.parametrize("k", [1, 3, 10])
def test_what_is_skipped_among_many_documents_changes_nothing(k: int) -> None:
    chance = random.Random(0)
    words = [f"w{number}" for number in range(300)]
    often = [1 / (1 + number) for number in range(300)]  # as in a language: few are frequent
    held = {f"{n}": " ".join(chance.choices(words, often, k=chance.randint(1, 40))) for n in range(600)}
    index = built(held)
    for _ in range(15):
        query = " ".join(chance.choices(words, k=chance.randint(1, 8)) + chance.choices(words, often, k=3))
        expected = in_a_loop(held, query)
        best = sorted(expected, key=lambda id: (-round(expected[id], 9), int(id)))[:k]
        found = index.search(query, k)
        assert [id for id, _ in found] == best
        assert [score for _, score in found] == pytest.approx([expected[id] for id in best], abs=1e-9)


def test_equal_documents_come_as_they_were_added() -> None:
    index = BM25Index()
    index.add(["z", "a", "m", "z"], ["the sea", "the sea", "the sea", "the sea"])
    assert [id for id, _ in index.search("sea", 3)] == ["a", "m", "z"]  # the second z took the place of the first
    index.add(["a"], ["the sea"])
    assert [id for id, _ in index.search("sea", 2)] == ["m", "z"]


@settings(max_examples=60)
@given(st.text())
def test_any_text_is_a_document_and_a_query(text: str) -> None:
    index = built({"it": text, "other": "ada", "and": "bo", "third": "harp"})
    found = [id for id, _ in index.search(text, 1)]
    assert found == (["it"] if terms_of(text) else [])


@pytest.mark.parametrize("query", ['"', "a* OR", "NEAR(a b)", "terms: -x", "\x00", "", "';--", "^ ( ) { } + AND NOT"])
def test_operators_mean_nothing(query: str) -> None:
    index = built({"b": "bo", "c": "cy"})
    assert index.search(query, 3) == []


def test_case_and_accents_do_not_count() -> None:
    index = built({"1": "Das CAFÉ in İzmir.", "2": "Cafe\u0301s", "3": "Weg", "4": "Haus", "5": "Straße"})
    assert [id for id, _ in index.search("cafe", 5)] == ["1"]
    assert [id for id, _ in index.search("STRASSE", 5)] == ["5"]
    assert [id for id, _ in index.search("izmir", 5)] == ["1"]


def test_a_query_may_have_thousands_of_terms() -> None:
    index = built({"a": "w7", "b": "w9000 x", "c": "y"})
    assert len(index.search(" ".join(f"w{number}" for number in range(20_000)), 5)) == 2


def test_it_is_kept_in_a_file_and_comes_again(tmp_path: Path) -> None:
    index = BM25Index(tmp_path / "index.sqlite")
    index.add(["a", "b", "c"], ["ada sings", "bo sings", "cy"])
    index.drop("b")
    again = BM25Index(tmp_path / "index.sqlite")
    assert again.documents == ["a", "c"] and again.search("who sings", 3) == index.search("who sings", 3) != []


def test_it_lives_in_the_file_of_a_bank_and_leaves_nothing_there(tmp_path: Path) -> None:
    with BankStore.create(tmp_path, Facts(vectors=1, width=1, key_width=1, networks="n")) as bank:
        index = BM25Index(bank.database)
        index.add(["a", "b"], ["a quietly secretive word", "ordinary"])
        bank.database.execute("BEGIN")
        index.add(["c"], ["never"])
        bank.database.execute("ROLLBACK")
        assert index.documents == ["a", "b"] and index.search("never", 1) == []
        index.drop("a")
        bank.database.execute("VACUUM")
        assert bank.verify() == []
    assert b"secretive" not in (tmp_path / "bank.sqlite").read_bytes()
    with BankStore.open(tmp_path) as bank:
        assert BM25Index(bank.database).documents == ["b"]


def test_changes_are_whole_or_refused(tmp_path: Path) -> None:
    index = built({"a": "ada", "b": "bo", "c": "cy"})
    with pytest.raises(DriftError, match="no document 'x'; give the id of one"):
        index.drop("a", "x")
    with pytest.raises(ValueError):
        index.add(["d", "e"], ["dan"])
    assert index.documents == ["a", "b", "c"] and [id for id, _ in index.search("ada", 1)] == ["a"]
    with pytest.raises(DriftError, match="0 documents were asked for; give 1"):
        index.search("ada", 0)
    with pytest.raises(DriftError, match="cannot be read or written"):
        BM25Index(tmp_path)
    index.reset()
    assert index.documents == [] and index.search("ada", 1) == []
