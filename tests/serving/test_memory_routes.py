"""Listing, the newest first, and removing snapshots."""

from pathlib import Path

from tests.running import words
from tests.serving.servers import server

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
