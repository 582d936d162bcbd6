"""Fixtures of all tests, each started once a test process: a real Redis, emptied for each test, and a whole service."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import structlog
from redis import Redis

from tests.redis_server import RedisServer
from tests.service import Service

# What is compared bit by bit, here and in processes that tests start, doesn't depend on the machine's card.
os.environ["LATENTD_DTYPE"] = "float32"


@pytest.fixture(autouse=True)
def default_logs() -> Iterator[None]:
    """Commands configure logging for their process; each test starts from the defaults.

    But with tracebacks as our own logs have them: with local variables, as rich shows them, one takes seconds.
    """
    structlog.reset_defaults()
    *before, _ = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*before, plain])
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The session's server; a test that kills its server makes one of its own."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    """A client of the emptied server."""
    with redis_server.connect() as client:
        client.flushall()
        yield client


@pytest.fixture
def redis_url(redis_server: RedisServer, redis: Redis) -> str:  # noqa: ARG001 (emptied by it)
    """The emptied server's URL, for processes and clients of a test's own."""
    return redis_server.url


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """`latentd up` as a newcomer starts it; tests leave no job running there. Other settings want one of their own."""
    with Service() as started:
        yield started
