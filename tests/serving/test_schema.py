"""Requests made from the OpenAPI schema, as it has them and against it: no answer that it does not have."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from driftlm.serving.settings import Limits
from tests.support.servers import Server, server

pytest.importorskip("schemathesis", reason="what makes requests from a schema is not installed")

import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

pytestmark = pytest.mark.long

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
HERE = {"host": "localhost"}
EXAMPLES = 5  # of an operation, and as many that break its schema


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("homes"), limits=Limits(max_tokens=4)) as made:
        made.read(("a", "the storm was on the red sea"))
        yield made


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_request_gets_what_the_schema_does_not_have(one: Server, mode: Any) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", one.app, headers=HERE)
    seen = set[tuple[str, str]]()

    def sent(case: Any) -> None:
        seen.add((case.method, case.path))
        response = case.call(headers=HERE)
        case.validate_response(response, checks=CHECKS)

    for operation in schema.get_all_operations():
        tried = given(operation.ok().as_strategy(generation_mode=mode))(sent)
        with suppress(Unsatisfiable):  # nothing can be wrong where nothing is given
            settings(max_examples=EXAMPLES, phases=[Phase.generate], suppress_health_check=list(HealthCheck))(tried)()
    assert len(seen) >= (15 if mode is GenerationMode.POSITIVE else 9)
    assert one.client.get("/v1/memory").status_code == 200


def test_a_wrong_method_is_told_all_that_there_are(one: Server) -> None:
    allowed = {path: one.client.put(path).headers["allow"] for path in ("/health", "/v1/snapshots", "/v1/memory/a/b")}
    assert allowed == {"/health": "GET", "/v1/snapshots": "GET, POST", "/v1/memory/a/b": "DELETE, GET"}
