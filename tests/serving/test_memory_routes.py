"""Listing, the newest first, removing snapshots, purging, expiring, and what a restoring leaves."""

from pathlib import Path

import pytest

from tests.support.running import words
from tests.support.servers import server

pytestmark = pytest.mark.long

SHORT = [(f"d{number}", words(4, number)) for number in range(5)]


def test_the_newest_first_is_the_list_backwards(tmp_path: Path) -> None:
    with server(tmp_path) as one:
        one.read(*SHORT)
        one.client.delete("/v1/memory/d2")  # numbers with a gap
        forward = one.client.get("/v1/memory").json()["data"]
        assert [row["id"] for row in forward] == ["d0", "d1", "d3", "d4"]
        after = 0
        for expected, more in ((["d4", "d3"], True), (["d1", "d0"], False)):
            page = one.client.get("/v1/memory", params={"order": "desc", "limit": 2, "after": after}).json()
            assert ([row["id"] for row in page["data"]], page["has_more"]) == (expected, more)
            after = page["data"][-1]["seq"]
        assert one.client.get("/v1/memory", params={"order": "newest"}).status_code == 400


def test_a_snapshot_is_removed_with_what_it_alone_holds(tmp_path: Path) -> None:
    with server(tmp_path, "learns behind words") as one:
        delete, folder = one.client.delete, tmp_path / "default" / "snapshots"
        for number, name in enumerate(("first", "second", "third")):
            one.read(SHORT[number])
            one.client.post("/v1/snapshots", json={"name": name})
        before = {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        removed = delete("/v1/snapshots/first").json()
        after = {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        assert removed["removed"] == ["first"] and after.keys() < before.keys()
        assert removed["freed_bytes"] == sum(before.values()) - sum(after.values()) > 0
        assert [row["name"] for row in one.client.get("/v1/snapshots").json()["data"]] == ["second", "third"]
        assert one.client.post("/v1/snapshots/restore", json={"snapshot": "second"}).json()["documents"] == 2

        missing = delete("/v1/snapshots/first")
        assert missing.status_code == 404 and "GET /v1/snapshots" in missing.json()["error"]["message"]
        assert delete("/v1/snapshots/..%2Fsecond").status_code == 404
        (folder / "third.json").write_text("{}")  # damaged: it can be removed all the same
        assert one.client.get("/v1/snapshots").status_code == 400
        assert delete("/v1/snapshots/third").json()["removed"] == ["third"]
        assert [row["name"] for row in one.client.get("/v1/snapshots").json()["data"]] == ["second"]


OLD = {"id": "old", "time": "2001-01-01", "text": "zebra quagga okapi"}


def holding(folder: Path) -> list[str]:
    """Files in which the text of the old document is left."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and b"quagga" in path.read_bytes()]


@pytest.mark.parametrize("kind", ["words", "learns behind words"])
def test_what_was_undone_expires_too(kind: str, tmp_path: Path) -> None:
    with server(tmp_path, kind) as one:
        newer = [{"id": "twice", "time": year, "text": words(4, int(year))} for year in ("2001", "2020")]
        assert one.client.post("/v1/read", json={"documents": [*newer, OLD]}).status_code == 200
        back = one.client.post("/v1/snapshots/restore", json={"before": "old"}).json()
        assert back["documents"] == 2 and holding(tmp_path)
        gone = one.client.post("/v1/memory/expire", json={"before": "2010", "purge": True}).json()
        assert gone["forgotten"] == ["old"] and holding(tmp_path) == []
        assert one.client.get("/v1/memory").json()["documents"] == 2


@pytest.mark.parametrize("kind", ["words", "learns behind words"])
@pytest.mark.parametrize("route", ["forget", "expire"])
def test_what_was_forgotten_is_purged_later(route: str, kind: str, tmp_path: Path) -> None:
    body = {"ids": []} if route == "forget" else {"before": "1990"}
    with server(tmp_path, kind) as one:
        post = one.client.post
        assert post("/v1/read", json={"documents": [OLD]}).status_code == 200 and one.read(SHORT[0]).status_code == 200
        assert post("/v1/snapshots", json={"name": "all"}).status_code == 200
        assert one.client.delete("/v1/memory/old").json()["held_by"] == ["all"] and holding(tmp_path)
        asked = post(f"/v1/memory/{route}", json=body | {"purge": True, "cost": True}).json()
        assert (asked["forgotten"], asked["held_by"]) == ([], ["all"]) and holding(tmp_path)
        assert post(f"/v1/memory/{route}", json=body | {"purge": True}).json()["held_by"] == []
        assert holding(tmp_path) == []
        assert post("/v1/snapshots/restore", json={"snapshot": "all"}).json()["documents"] == 1


def test_a_restoring_says_what_it_leaves_and_what_leads_back(tmp_path: Path) -> None:
    with server(tmp_path) as one:
        one.read(*SHORT)
        post, back = one.client.post, {"before": "d2"}
        asked = post("/v1/snapshots/restore", json=back | {"cost": True}).json()
        assert (asked["left"], asked["kept_by"], asked["documents"]) == (3, [], 5)
        post("/v1/snapshots", json={"name": "all"})
        done = post("/v1/snapshots/restore", json=back).json()
        assert (done["left"], done["kept_by"], done["documents"]) == (3, ["all"], 2)
        again = post("/v1/snapshots/restore", json={"snapshot": "all"}).json()
        assert (again["left"], again["kept_by"], again["documents"]) == (0, [], 5)


def test_a_time_that_nobody_can_read_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with server(tmp_path) as one:
        rows = [OLD, OLD | {"id": "new", "time": "yesterdayish"}]
        refused = one.client.post("/v1/read", json={"documents": rows})
        said = refused.json()["error"]
        assert refused.status_code == 400 and said["param"] == "documents.1.time"
        assert "'yesterdayish'" in said["message"] and "such as 2024-05-01" in said["message"]
        assert one.client.get("/v1/memory").json()["documents"] == 0
