"""Jobs whose client waits on its one connection: it never learns their ids, so that they end when it leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import RedisError
from starlette.requests import ClientDisconnect

from contract.common import OutputFormat
from contract.job import TERMINAL, Job
from contract.redis_keys import attended_key, job_key
from core.clock import CLOCK
from core.errors import DeadlineMissed, Unavailable
from core.redis_errors import is_transient
from jobs.cancel import cancel
from jobs.end import Retention
from service.auth.access import Caller
from service.jobs.events import StopSignals, wait_end
from service.jobs.views import read_job
from service.jobs.waiting import AGAIN_S, wait_at_most
from service.requests.bodies import Body
from service.requests.preferences import Preferences
from service.state import Gateway
from service.submit import Client, Submitted, submit

Left = Callable[[], Awaitable[bool]]  # whether the client has gone
SLACK_S = 60
LEAVE_S = 1.0  # for an answer that is true; what takes longer goes on behind it

log = structlog.get_logger("service")
_ending: set[asyncio.Task[None]] = set()  # held: the loop itself would drop them


@dataclass(frozen=True, slots=True)
class Session:
    """One call: who asks, and whether they still listen."""

    gateway: Gateway
    caller: Caller
    left: Left


async def attend(session: Session, body: Body, output_format: OutputFormat = "png") -> Job:
    """Make a job and wait for its end, whatever that is.

    Raises:
        LatentdError: as `submit`.
        DeadlineMissed, Unavailable, ClientDisconnect: nobody waited long enough; the job was canceled.
    """
    async with attended(session, body, output_format) as job:
        return await finished(session, job.id)


@asynccontextmanager
async def attended(session: Session, body: Body, output_format: OutputFormat) -> AsyncIterator[Job]:
    """Make a job that is canceled if it hasn't ended with the block. Raises as `submit`."""
    gateway = session.gateway
    asks = Preferences(wait_s=None, wait_preferred=None, picture=False, output_format=output_format, key=None)
    submitted = await submit(gateway, session.caller, body, asks, Client(session.left))
    assert isinstance(submitted, Submitted)  # it was no dry run
    key, job = attended_key(session.caller.owner), submitted.job
    try:
        await _enter(gateway, key, job.id)
        yield job
    finally:
        # A task of its own: what is cancelled because its client left can't wait for anything.
        task = asyncio.create_task(_leave(gateway, key, job.id))
        _ending.add(task)
        task.add_done_callback(_ending.discard)
        await asyncio.wait((task,), timeout=LEAVE_S)


async def _enter(gateway: Gateway, key: str, job_id: str) -> None:
    """Tell that a call waits for a job; what gateways that died have left there is removed."""
    now, life_s = CLOCK.unix(), int(gateway.settings.compat_wait_s) + SLACK_S
    async with gateway.redis.pipeline() as pipe:
        pipe.zremrangebyscore(key, "-inf", int((now - life_s) * 1000))
        pipe.zadd(key, {job_id: int(now * 1000)})
        pipe.expire(key, life_s)
        await pipe.execute()


async def _leave(gateway: Gateway, key: str, job_id: str) -> None:
    """Cancel a job that hasn't ended; while Redis is away, try again for as long as a call could have waited."""
    until = time.monotonic() + gateway.settings.compat_wait_s
    while True:
        try:
            await _end(gateway, key, job_id)
            return
        except RedisError as error:
            if not is_transient(error) or time.monotonic() > until or gateway.stopping.is_set():
                log.warning("a job that nobody waits for goes on: redis is away", job_id=job_id, error=str(error))
                return
            await wait_at_most(gateway.stopping, AGAIN_S)


async def _end(gateway: Gateway, key: str, job_id: str) -> None:
    await gateway.redis.zrem(key, job_id)
    status: Any = await gateway.redis.hget(job_key(job_id), "status")
    if status is not None and status not in TERMINAL:
        await _cancel(gateway, job_id)
        log.info("nobody waits any more: job canceled", job_id=job_id)


async def finished(session: Session, job_id: str, waited_s: float = 0.0) -> Job:
    """Wait for a job's end, after `waited_s` already. Raises as `attend`."""
    gateway = session.gateway
    limit_s, stop = gateway.settings.compat_wait_s, StopSignals(gateway.waiters, gateway.stopping)
    ended = await wait_end(gateway.redis, job_id, max(0.0, limit_s - waited_s), stop, session.left)
    if not ended:
        if await session.left():
            raise ClientDisconnect
        if gateway.stopping.is_set():
            raise Unavailable("the service stops; the job was canceled: ask again")
        detail = f"the job didn't end within LATENTD_COMPAT_WAIT_S={limit_s:g}; it was canceled"
        raise DeadlineMissed(detail, value=limit_s, bound="POST /v1/txt2img and its siblings wait for nothing")
    return await read_job(gateway.redis, gateway.backlogs, session.caller, job_id)


async def current_job(gateway: Gateway, caller: Caller) -> tuple[Job | None, int]:
    """Return the oldest of the caller's own jobs that a call waits for, and how many of those haven't ended."""
    ids: Any = await gateway.redis.zrange(attended_key(caller.owner), 0, -1)
    async with gateway.redis.pipeline(transaction=False) as pipe:
        for job_id in ids:
            pipe.hget(job_key(job_id), "status")
        statuses = await pipe.execute()
    alive = [job_id for job_id, status in zip(ids, statuses, strict=True) if status in ("running", "queued")]
    running = [job_id for job_id, status in zip(ids, statuses, strict=True) if status == "running"]
    first = next(iter([*running, *alive]), None)
    return (None if first is None else await read_job(gateway.redis, gateway.backlogs, caller, first)), len(alive)


async def end_current(gateway: Gateway, caller: Caller) -> None:
    """Cancel what `current_job` returns."""
    job, _ = await current_job(gateway, caller)
    if job is not None:
        await _cancel(gateway, job.id)


async def _cancel(gateway: Gateway, job_id: str) -> None:
    await asyncio.to_thread(cancel, gateway.rq, Retention.of(gateway.settings), job_id)
