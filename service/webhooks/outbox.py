"""Webhooks of ended jobs, sent by the gateways from one outbox stream, at least once.

The stream's consumer group shares the work; what a dead gateway left is claimed by another. A failed try moves the
message to a sorted set of due times, from where it returns to the stream: no gateway has to outlive a retry's wait.
"""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, Self

import structlog
from pydantic import BaseModel, ConfigDict, Field
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from contract.job import Job, JobHead
from contract.redis_keys import DUE_KEY, NOTHING_KEY, OUTBOX_KEY, deliveries_key, job_key
from core.clock import CLOCK
from core.errors import Gone, LatentdError, NewerRelease, NotFound
from jobs.commands import as_script
from service.admission.backlogs import Backlogs
from service.auth.access import Caller, may_read
from service.auth.signing import ImageUrls, read_signer
from service.jobs.views import read_job
from service.webhooks.addresses import check_url
from service.webhooks.send import NotSent, send

GROUP = "gateways"
# Nine tries over eleven hours.
BACKOFF_S = (1.0, 5.0, 30.0, 120.0, 600.0, 1800.0, 7200.0, 28800.0)
JITTER = 0.2
ORPHANED_MS = 30_000  # a try takes 10 s at most
BLOCK_MS = 1000
PAUSE_S = 1.0
AT_ONCE = 16
FORGOTTEN_MS = 3_600_000  # one at work asks every second

# KEYS: due times, outbox. ARGV: now, most. A full Redis takes it behind a first write that needs no memory.
_RETURN = f"""
redis.call('DEL', '{NOTHING_KEY}')
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, text in ipairs(due) do
  local message = cjson.decode(text)
  redis.call('XADD', KEYS[2], '*', 'job', message.job, 'type', message.type, 'tries', message.tries)
  redis.call('ZREM', KEYS[1], text)
end
return #due
"""

log = structlog.get_logger("service")


class Delivery(BaseModel):
    """One try to send a job's webhook."""

    model_config = ConfigDict(extra="forbid")

    at: datetime
    attempt: int = Field(description="Counted from 1.")
    status: int | None = Field(default=None, description="HTTP status of the answer; null without one.")
    error: str | None = Field(default=None, description="Why it didn't arrive.")
    next_at: datetime | None = Field(default=None, description="When it is tried again; null: never.")


class JobEnded(BaseModel):
    """What a webhook says: how a job ended, when, and the job."""

    type: Literal["job.succeeded", "job.failed", "job.canceled"]
    timestamp: datetime
    data: Job

    @classmethod
    def of(cls, job: Job, status: str) -> Self:
        return cls.model_validate({"type": f"job.{status}", "timestamp": job.ended_at or job.created_at, "data": job})


@dataclass(frozen=True, slots=True)
class Message:
    """What the outbox says: a job and how it ended; `tries` were made before."""

    entry: str
    job: str
    type: str
    tries: int


class Webhooks:
    """Sends what the outbox holds, until stopped."""

    def __init__(
        self,
        redis: Redis,
        backlogs: Backlogs,
        secret: bytes,
        allow: Sequence[str],
        retention_s: int,
        *,
        prefix: str = "",
        backoff_s: Sequence[float] = BACKOFF_S,
    ) -> None:
        self._redis = redis
        self._backlogs = backlogs
        self._secret = secret
        self._allow = allow
        self._retention_s = retention_s
        self._prefix = prefix
        self._backoff_s = backoff_s
        self._name = uuid.uuid4().hex
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Send until cancelled; while Redis is away, try again every second."""
        try:
            while True:
                await self._while_redis_answers()
                await asyncio.sleep(PAUSE_S)
        finally:
            for task in self._sending:
                task.cancel()

    async def _while_redis_answers(self) -> None:
        try:
            await self._prepare()
            while True:
                await self._round()
        except RedisError as error:
            log.warning("webhooks wait for Redis", error=str(error))

    async def _prepare(self) -> None:
        try:
            await self._redis.xgroup_create(OUTBOX_KEY, GROUP, id="0", mkstream=True)
        except ResponseError:
            groups: Any = await self._redis.xinfo_groups(OUTBOX_KEY)
            if GROUP not in {group["name"] for group in groups}:  # it may be there already; any other error counts
                raise
        await self._forget_ended()

    async def _forget_ended(self) -> None:
        """Delete consumers of gateways that have ended, once all of theirs is claimed: each start makes a new one."""
        consumers: Any = await self._redis.xinfo_consumers(OUTBOX_KEY, GROUP)
        for consumer in consumers:
            if not consumer["pending"] and consumer["idle"] > FORGOTTEN_MS:
                await self._redis.xgroup_delconsumer(OUTBOX_KEY, GROUP, consumer["name"])

    async def _round(self) -> None:
        """Return what is due, take over what a dead gateway left, start sending what is new."""
        if len(self._sending) >= AT_ONCE:
            await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)
        free = AT_ONCE - len(self._sending)
        await self._redis.eval(_RETURN, 2, DUE_KEY, OUTBOX_KEY, CLOCK.unix(), free)
        orphans: Any = await self._redis.xautoclaim(OUTBOX_KEY, GROUP, self._name, ORPHANED_MS, "0-0", count=free)
        entries = orphans[1]
        if not entries:
            found: Any = await self._redis.xreadgroup(GROUP, self._name, {OUTBOX_KEY: ">"}, count=free, block=BLOCK_MS)
            entries = _entries(found)
        for entry, fields in entries:
            task = asyncio.create_task(self._handle(_parse(entry, fields)))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _handle(self, message: Message) -> None:
        try:
            await self._deliver(message)
        except RedisError as error:  # the message stays pending: whoever runs in 30 s claims it
            log.warning("a webhook's try wasn't noted", job_id=message.job, error=str(error))
        except NewerRelease:  # pending, too, until a gateway of that release claims it
            log.info("a webhook is left to a newer release", job_id=message.job)

    async def _deliver(self, message: Message) -> None:
        """Write one try, its log, and what follows from it, at once, in a full Redis, too: it was sent."""
        tried = await self._try(message)
        async with self._redis.pipeline() as pipe:
            if tried is not None:
                pipe.rpush(deliveries_key(message.job), tried.model_dump_json())
                pipe.expire(deliveries_key(message.job), self._retention_s)
                if tried.next_at is not None:
                    again = {"job": message.job, "type": message.type, "tries": message.tries + 1}
                    pipe.zadd(DUE_KEY, {json.dumps(again): tried.next_at.timestamp()})
            pipe.xack(OUTBOX_KEY, GROUP, message.entry)
            pipe.xdel(OUTBOX_KEY, message.entry)
            as_script(pipe)
            await pipe.execute()

    async def _try(self, message: Message) -> Delivery | None:
        """Send once; None for a job that has expired or was purged: there is nothing left to tell."""
        try:
            job = await read_job(self._redis, self._backlogs, await self._reader(message.job), message.job)
        except (NotFound, Gone):
            log.warning("webhook given up: its job has expired or was purged", job_id=message.job, tries=message.tries)
            return None
        at = CLOCK.now()
        try:
            status = await self._send(job, message)
        except (NotSent, LatentdError) as error:
            return self._failed(message, at, None, str(error))
        if 200 <= status < 300:
            return Delivery(at=at, attempt=message.tries + 1, status=status)
        what = "a redirect; those aren't followed" if 300 <= status < 400 else f"answered {status}"
        return self._failed(message, at, status, what)

    async def _reader(self, job_id: str) -> Caller:
        """Make a caller that sees every job; its image URLs are signed where the job's own key may read it now."""
        record: Any = await self._redis.hget(job_key(job_id), "record")
        owner = JobHead.read(record).owner if record else ""
        signer = await read_signer(self._redis) if await may_read(self._redis, owner) else None
        return Caller(urls=ImageUrls(self._prefix, signer))

    async def _send(self, job: Job, message: Message) -> int:
        assert job.request.webhook_url is not None
        target = check_url(job.request.webhook_url, self._allow)
        data = JobEnded.of(job, message.type).model_dump_json().encode()
        return await send(target, self._secret, f"msg_{job.id}", data, self._allow)

    def _failed(self, message: Message, at: datetime, status: int | None, error: str) -> Delivery:
        """Note a failure: 410 says that nobody listens any more; all else is tried again while the backoff lasts."""
        over = status == 410 or message.tries >= len(self._backoff_s)
        wait_s = 0.0 if over else self._backoff_s[message.tries] * random.uniform(1, 1 + JITTER)
        next_at = None if over else at + timedelta(seconds=wait_s)
        log.info("webhook not delivered", job_id=message.job, attempt=message.tries + 1, status=status, last=over)
        return Delivery(at=at, attempt=message.tries + 1, status=status, error=error, next_at=next_at)


def _entries(found: Any) -> list[tuple[str, dict[str, str]]]:
    """Return the entries of the one stream read, in either of the forms in which redis-py answers."""
    if not found:
        return []
    streams = next(iter(found.values())) if isinstance(found, dict) else found[0][1]
    return list(streams[0] if isinstance(found, dict) else streams)


def _parse(entry: str, fields: dict[str, str]) -> Message:
    return Message(entry, fields["job"], fields["type"], int(fields.get("tries", 0)))


async def read_deliveries(redis: Redis, job_id: str) -> list[Delivery]:
    """Read every try to send a job's webhook, oldest first; the caller may see the job."""
    texts: Any = await redis.lrange(deliveries_key(job_id), 0, -1)
    return [Delivery.model_validate_json(text, extra="ignore") for text in texts]
