"""What a tenant's home reads and has read: `/v1/read`, `/v1/reading`, `/v1/memory` and `/v1/snapshots`."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

from driftlm.core.errors import DriftError
from driftlm.homes import deletion
from driftlm.homes.home import Home
from driftlm.homes.journal import Entry, facts_of
from driftlm.homes.snapshots import described
from driftlm.serving.requests import Missing, PartlyRead, Requests
from driftlm.streams.documents import Document
from driftlm.streams.timestamps import UNDERSTOOD, timestamp_of

MOST_LISTED = 1000


def read(
    home: Home, documents: list[Document], reader: Callable[[Home, Document], Entry], between: Callable[[], None]
) -> list[dict[str, Any]]:
    """Score, learn and store documents; each is on disk before the next one begins, and before `between` is called."""
    entries: list[dict[str, Any]] = []
    about = {"learned": home.settings.learning.learn != "none", "stored": list(home.settings.sources)}
    for document in documents:
        if entries:
            between()
        try:
            entries.append(facts_of(reader(home, document)) | about)
        except DriftError as error:
            raise PartlyRead(f"the document {document.id!r}: {error}", [one["id"] for one in entries]) from error
    return entries


def listed(home: Home, after: int, limit: int, order: Literal["asc", "desc"]) -> dict[str, Any]:
    """Return what is behind the present state, in its order or the newest first, without texts."""
    left = [seq for seq in home.history if seq > after]
    if order == "desc":
        left = [seq for seq in reversed(home.history) if not after or seq < after]
    rows = [facts_of(entry) for entry in home.journal.entries(left[:limit])]
    return {"object": "list", "data": rows, "has_more": len(left) > limit, "documents": len(home.history)}


def found(home: Home, id: str) -> dict[str, Any]:
    """Return the newest version of a document, with its text."""
    entry = home.newest(id)
    if entry is None:
        raise Missing(f"no document {id!r} is behind the present state; GET /v1/memory lists those that are.")
    return facts_of(entry) | {"text": entry.text}


def forgotten(home: Home, ids: list[str], purge: bool, cost: bool) -> dict[str, Any]:
    """Forget documents, or only say what that would take; without any, a purge is of those forgotten before."""
    missing = [id for id in ids if not home.journal.versions(id)]
    if missing:
        raise Missing(f"no document {missing[0]!r} was read; GET /v1/memory lists those that were.")
    if not ids and not purge:
        return {"forgotten": [], "held_by": [], "cost": None}
    planned = (deletion.plan if cost else deletion.forget)(home, *ids, purge=purge)
    return {
        "forgotten": [] if cost else list(planned.documents),
        "held_by": [] if purge and not cost else planned.snapshots,
        "cost": asdict(planned.cost),
    }


def expired(home: Home, before: str, purge: bool, cost: bool) -> dict[str, Any]:
    """Forget documents whose newest version is from before a time; those without a time stay.

    Documents that are not behind the present state are among them: their text is kept as well.
    """
    end = timestamp_of(before)
    if end is None:
        raise DriftError(f"before was {before!r}; give {UNDERSTOOD}.")
    timestamps = {entry.id: timestamp_of(entry.time) for entry in home.journal.entries(home.journal.hashes())}
    return forgotten(home, [id for id, at in timestamps.items() if at is not None and at < end], purge, cost)


def snapshots(home: Home) -> dict[str, Any]:
    """Return all snapshots, the oldest first."""
    there = home.journal.hashes().keys()
    rows = [described(one) | {"holds_forgotten": bool(set(one.history) - there)} for one in home.snapshots.ls()]
    return {"object": "list", "data": rows}


def removed(home: Home, name: str) -> dict[str, Any]:
    """Remove a snapshot, also a damaged one, and the room that nothing refers to any more."""
    if name not in home.snapshots.names():
        raise Missing(f"there is no snapshot {name!r}; GET /v1/snapshots lists those that there are.")
    return {"removed": [name], "freed_bytes": home.snapshots.prune([name])}


def restored(home: Home, snapshot: str, before: str, as_of: str, cost: bool) -> dict[str, Any]:
    """Go to a state, or only say what that would take, and what would leave the state."""
    target = home.point(snapshot=snapshot, before=before, as_of=as_of)
    price, left, kept = home.replay.cost(target), len(home.left_by(target)), home.kept_by()
    if not cost:
        home.restore(target)
    facts = {"restored": not cost, "documents": len(home.history)}
    return facts | {"left": left, "kept_by": kept, "cost": asdict(price)}


def memory_routes(requests: Requests) -> Any:
    """Return the router of the memory."""
    from fastapi import APIRouter, Query, Request
    from fastapi.responses import JSONResponse, Response

    from driftlm.serving.schemas import ExpireRequest, ForgetRequest, ReadRequest, RestoreRequest, SnapshotRequest

    router = APIRouter(prefix="/v1")

    def left(asked: ForgetRequest | ExpireRequest | RestoreRequest) -> Callable[[str], None]:
        """Return what notes a change; who only asks for the cost changes nothing."""
        return (lambda tenant: None) if asked.cost else requests.progress.left

    async def noted(request: Request, work: Callable[[Home], Any], note: Callable[[str], None]) -> Response:
        """Return what work gives; who follows the tenant is told before it is answered."""

        def done(home: Home) -> Any:
            try:
                return work(home)
            finally:
                note(request.state.tenant)

        return JSONResponse(await requests.done(request, done))

    @router.post("/read")
    async def read_documents(request: Request, asked: ReadRequest) -> Response:
        if asked.text is not None:  # sent again it has the same id, and is not read twice
            documents = [Document(f"text-{hashlib.sha256(asked.text.encode()).hexdigest()[:16]}", asked.text)]
        else:
            documents = [Document(one.id, one.text, one.time) for one in asked.documents or ()]

        def work(home: Home) -> list[dict[str, Any]]:
            engine = requests.engine
            reader = partial(requests.progress.read, request.state.tenant, between=engine.between_windows)
            entries = read(home, documents, reader, engine.give_way)
            requests.metrics.add("driftlm_documents_read_total", len(entries))
            requests.metrics.add("driftlm_tokens_read_total", sum(one["tokens"] for one in entries))
            return entries

        return JSONResponse({"object": "list", "data": await requests.done(request, work, "reads")})

    @router.get("/reading")
    async def reading(request: Request) -> Response:
        tenant = request.state.tenant
        return JSONResponse({"object": "reading", "tenant": tenant} | requests.progress.of(tenant))

    @router.get("/memory")
    async def list_memory(
        request: Request,
        after: int = Query(0, ge=0),
        limit: int = Query(100, ge=1, le=MOST_LISTED),
        order: Literal["asc", "desc"] = "asc",
    ) -> Response:
        return JSONResponse(await requests.done(request, lambda home: listed(home, after, limit, order)))

    @router.post("/memory/forget")
    async def forget_several(request: Request, asked: ForgetRequest) -> Response:
        return await noted(request, lambda home: forgotten(home, asked.ids, asked.purge, asked.cost), left(asked))

    @router.post("/memory/expire")
    async def expire(request: Request, asked: ExpireRequest) -> Response:
        return await noted(request, lambda home: expired(home, asked.before, asked.purge, asked.cost), left(asked))

    @router.get("/memory/{id:path}")
    async def get_memory(request: Request, id: str) -> Response:
        return JSONResponse(await requests.done(request, lambda home: found(home, id)))

    @router.delete("/memory/{id:path}")
    async def forget_one(request: Request, id: str, purge: bool = False) -> Response:
        return await noted(request, lambda home: forgotten(home, [id], purge, cost=False), requests.progress.left)

    @router.get("/snapshots")
    async def list_snapshots(request: Request) -> Response:
        return JSONResponse(await requests.done(request, snapshots))

    @router.post("/snapshots")
    async def make_snapshot(request: Request, asked: SnapshotRequest) -> Response:
        return await noted(request, lambda home: described(home.snapshot(asked.name)), requests.progress.changed)

    @router.delete("/snapshots/{name}")
    async def remove_snapshot(request: Request, name: str) -> Response:
        return await noted(request, lambda home: removed(home, name), requests.progress.changed)

    @router.post("/snapshots/restore")
    async def restore(request: Request, asked: RestoreRequest) -> Response:
        parts = (asked.snapshot or "", asked.before or "", asked.as_of or "")
        return await noted(request, lambda home: restored(home, *parts, asked.cost), left(asked))

    return router
