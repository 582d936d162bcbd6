"""Faults of ours and broken-off answers: a problem with the request's id, one line of the log, never a traceback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from starlette.responses import StreamingResponse
from structlog.testing import capture_logs

from core.errors import Unavailable
from core.settings import Settings
from service.app import create_app
from service.http.problems import MEDIA_TYPE
from service.metrics.families import Metrics
from tests.gateway import running, settings_for
from tests.service import free_port


def test_unexpected_errors_show_no_traceback(redis_url: str, tmp_path: Path) -> None:
    settings: Settings = settings_for(redis_url, tmp_path)
    app = create_app(settings)

    async def broken() -> None:
        raise RuntimeError("inner secret")

    app.get("/broken")(broken)
    with capture_logs([structlog.contextvars.merge_contextvars]) as logged, running(settings, app) as client:
        answer = client.get("/broken", headers={"X-Request-ID": "mine"})
    told = [(entry["event"], entry["request_id"]) for entry in logged if entry["log_level"] == "error"]
    assert told == [("unexpected error", "mine")]
    assert (answer.status_code, answer.headers["content-type"]) == (500, MEDIA_TYPE)
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers["x-frame-options"] == "DENY"
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("error", "level"),
    [(RuntimeError("mistake"), "error"), (Unavailable("away"), "warning"), (RedisConnectionError("away"), "warning")],
)
def test_an_answer_that_has_begun_is_broken_off_with_one_line(
    redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception, level: str
) -> None:
    settings = settings_for(redis_url, tmp_path)
    app = create_app(settings)

    async def half() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"half"
            raise error

        return StreamingResponse(pieces())

    app.get("/half")(half)
    with capture_logs([structlog.contextvars.merge_contextvars]) as logged, running(settings, app) as client:
        with pytest.raises(httpx2.RemoteProtocolError):
            client.get("/half", headers={"X-Request-ID": "mine"})
        assert client.get("/livez").status_code == 200
    told = [entry for entry in logged if entry["log_level"] in ("error", "warning")]
    assert [(entry["event"], entry["log_level"], entry["request_id"]) for entry in told] == [
        ("an answer was broken off", level, "mine")
    ]
    assert ("exc_info" in told[0]) is (level == "error")
    assert caplog.records == [], "the server's own line says nothing more"


def test_an_unexpected_error_at_the_metrics_port_is_a_problem(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("inner secret")

    monkeypatch.setattr(Metrics, "render", broken)
    port = free_port()
    with capture_logs() as logged, running(settings_for(redis_url, tmp_path, metrics_port=port)) as client:
        answer = client.get(f"http://127.0.0.1:{port}/metrics")
    assert (answer.status_code, answer.headers["content-type"]) == (500, MEDIA_TYPE)
    assert "secret" not in answer.text
    assert "unexpected error" in [entry["event"] for entry in logged]
