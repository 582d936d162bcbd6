"""Every endpoint fuzzed from its own OpenAPI document: no 5xx, and no answer that the document doesn't describe."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from redis import Redis
from schemathesis import GenerationMode
from schemathesis.checks import CheckContext, not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.core.transport import Response
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi import checks

from tests.times import cells, publish


def no_fault(context: CheckContext, response: Response, case: schemathesis.Case[Any]) -> bool | None:
    """No 5xx; but calls of other APIs wait for their job, and without a worker that is a 504 that they document."""
    if response.status_code == 504 and {"a1111", "openai"} & set(case.operation.tags or ()):
        return None
    return not_a_server_error(context, response, case)


def wrong_data_is_refused(context: CheckContext, response: Response, case: schemathesis.Case[Any]) -> bool | None:
    """But an empty list in a form: no part says it, so that the field isn't there."""
    if case.media_type == "multipart/form-data" and isinstance(case.body, dict) and [] in case.body.values():
        return None
    return checks.negative_data_rejection(context, response, case)


# `positive_data_acceptance` is left out: which fields a model uses and whether base64 is a picture aren't in a schema.
CHECKS = [
    no_fault,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    wrong_data_is_refused,
    checks.missing_required_header,
    checks.unsupported_method,
    checks.use_after_free,
]
EXAMPLES = 15  # an operation and mode


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, object]:
    return {"max_wait_s": 0.05, "compat_wait_s": 0.05, "queue_limit": 20}


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_answers_are_as_documented(client: httpx2.Client, redis: Redis, mode: GenerationMode) -> None:
    publish(redis, "painter", cells(row_s=0.01, decode=0.1))
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) >= 50
    for operation in operations:
        if mode is GenerationMode.POSITIVE or operation.query or operation.body:  # any text may be an id
            fuzz(operation, mode, str(client.base_url))


def test_a_stream_of_images_is_as_documented(client: httpx2.Client, redis: Redis) -> None:
    """Which the fuzzer asks for by chance."""
    publish(redis, "painter", cells(row_s=0.01, decode=0.1))
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    case = schema["/v1/images/generations"]["POST"].Case(
        body={"prompt": "red heart", "stream": True}, media_type="application/json"
    )
    response = case.call_and_validate(base_url=str(client.base_url), checks=CHECKS, timeout=60)
    assert response.headers["content-type"][0].startswith("text/event-stream")


def fuzz(operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode, url: str) -> None:
    """Call one operation with generated requests."""

    @given(case=operation.as_strategy(generation_mode=mode))
    # The same requests each time: the fuzzer itself stumbles over a picture within a list that it makes by chance.
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def run(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(base_url=url, checks=CHECKS, timeout=60)

    run()
