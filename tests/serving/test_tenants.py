"""Tenants that ask at the same time: nobody sees what another has read, and nothing goes wrong but a full queue."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftlm import Document
from driftlm.serving.access import Tokens
from tests.support.homes import KINDS, home_in
from tests.support.running import words
from tests.support.servers import MODEL, server

pytestmark = pytest.mark.long

httpx2 = pytest.importorskip("httpx2", reason="needs the extra serve")

NAMES = ["ada", "bo", "cy"]
SECRETS = {name: f"{name}-0123456789abcdef" for name in NAMES}
TOKENS = Tokens([f"{name} {token}" for name, token in SECRETS.items()], "here")


async def sent(client: Any, tenant: str, method: str, path: str, seen: set[int], body: Any = None) -> Any:
    """An answer; a request that finds the queue full is sent again."""
    while True:
        reply = await client.request(
            method, path, json=body, headers={"authorization": f"Bearer {SECRETS[tenant]}"}, timeout=60
        )
        seen.add(reply.status_code)
        if reply.status_code != 429:
            return reply.json()
        await asyncio.sleep(0.01)


@settings(max_examples=3)
@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.integers(10**9, 10**10)), min_size=4, max_size=6, unique=True),
    st.integers(1, 3),
    st.sampled_from(["words", "learns behind words"]),
)
def test_no_answer_is_mixed_between_tenants(facts: list[tuple[str, int]], most: int, kind: str) -> None:
    """Each gets, bit for bit, what a home that nobody else uses gives, whatever is asked at the same time."""
    own = {name: [mark for who, mark in facts if who == name] for name in NAMES}
    question = "the red ship was"
    ask = {"model": MODEL, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 24}
    seen = set[int]()

    async def reads(client: Any, name: str) -> None:
        for mark in own[name]:  # in order, as the state depends on it; tenants at the same time
            body = {"documents": [{"id": f"id{mark}", "text": f"{mark} the red ship {words(6, mark)}"}]}
            (row,) = (await sent(client, name, "POST", "/v1/read", seen, body))["data"]
            assert row["id"] == f"id{mark}"

    async def asks(client: Any) -> dict[str, list[Any]]:
        every = {name: [] for name in NAMES}  # type: dict[str, list[Any]]
        for name in NAMES:
            for _ in range(2):
                every[name].append(sent(client, name, "POST", "/v1/chat/completions", seen, ask))
            every[name].append(sent(client, name, "GET", "/v1/memory", seen))
            every[name] += [sent(client, name, "GET", f"/v1/memory/id{mark}", seen) for _, mark in facts]
        flat = await asyncio.gather(*(one for name in NAMES for one in every[name]))
        each = len(flat) // len(NAMES)
        return {name: flat[place * each : (place + 1) * each] for place, name in enumerate(NAMES)}

    with TemporaryDirectory() as folder:
        with server(Path(folder, "all"), kind, queue=3, tokens=TOKENS, most_in_memory=most) as one:

            async def play() -> dict[str, list[Any]]:
                async with httpx2.AsyncClient(
                    transport=httpx2.ASGITransport(app=one.app), base_url="http://here"
                ) as client:
                    await asyncio.gather(*(reads(client, name) for name in NAMES))
                    return await asks(client)

            found = asyncio.run(play())
        assert {200, 404} <= seen <= {200, 404, 429}
        for name in NAMES:
            first, second, listing, *looked_up = found[name]
            assert first["choices"] == second["choices"]
            assert [row["id"] for row in listing["data"]] == [f"id{mark}" for mark in own[name]]
            for (who, mark), reply in zip(facts, looked_up, strict=True):
                assert ("error" in reply) == (who != name)
                assert who == name or str(mark) not in str(reply).replace(f"'id{mark}'", "")
            with home_in(Path(folder, name), KINDS[kind]) as alone:
                for mark in own[name]:
                    alone.read(Document(f"id{mark}", f"{mark} the red ship {words(6, mark)}"))
                answer = alone.answer(question)
                assert first["choices"][0]["message"]["content"] == answer.text
                assert first["documents"] == [{"id": id, "share": share} for id, share in answer.documents]
