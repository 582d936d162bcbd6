"""Event streams of jobs: server-sent events with replay, and waits for the end."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from redis.asyncio import Redis
from redis.exceptions import RedisError

from contract.events import TRACE, Preview, Previews
from contract.job import TERMINAL, JobRecord
from contract.redis_keys import events_key, job_key, preview_key
from core.errors import InvalidRequest
from core.redis_errors import is_transient
from service.auth.access import Caller, still_accepted
from service.auth.signing import PLAIN, ImageUrls
from service.jobs.streams import on_one_line
from service.jobs.waiting import Waiters, wait_at_most

COMMENT_S = 15.0  # silence after which a comment line keeps proxies from closing the stream
SLICE_S = 1.0  # how soon a blocked read notices that the client or the gateway leaves
CHECK_S = 5.0  # how long a key that was revoked may still read
GATHER_S = 0.1  # of live events that are sent together: a step of 20 ms is no message of its own
BATCH = 500


@dataclass(frozen=True, slots=True)
class StopSignals:
    """What ends a stream or a wait: the job's end, the gateway's."""

    waiters: Waiters
    gateway: asyncio.Event


StreamEvent: TypeAlias = tuple[str, str, str]  # id, type, data as JSON
_ID = re.compile(r"\d{1,20}-\d{1,20}")


def parse_event_id(value: str | None) -> str:
    """Return the id after which a stream goes on; `0-0` from the start.

    Raises:
        InvalidRequest: no id that a stream gave.
    """
    if value is None or value == "":
        return "0-0"
    if not _ID.fullmatch(value) or any(int(part) >= 2**64 for part in value.split("-")):
        detail = "Last-Event-ID is none that this stream gave"
        raise InvalidRequest(detail, field="Last-Event-ID", value=value[:200], bound="an event's id")
    return value


def _order(event_id: str) -> tuple[int, int]:
    ms, _, sequence = event_id.partition("-")
    return int(ms), int(sequence)


async def is_over(redis: Redis, job_id: str, after: str) -> bool:
    """Tell whether the stream's terminal event is at or before `after`, so that nothing can follow."""
    last: Any = await redis.xrevrange(events_key(job_id), count=1)
    if not last:
        return True  # expired while it was asked for
    event_id, fields = last[0]
    return fields["type"] in TERMINAL and _order(event_id) <= _order(after)


async def follow(redis: Redis, job_id: str, after: str, stop: StopSignals) -> AsyncIterator[list[StreamEvent]]:
    """Yield batches of events after an id: first what is there, then live; an empty batch each SLICE_S of silence.

    The first batches, up to an empty one, are replay. Ends behind the terminal event, and when the gateway stops or
    the job is purged; a Redis that is away is silence. Live events are gathered for GATHER_S, but for the job's end,
    which is passed on at once.
    """
    position, replaying = after, True
    with stop.waiters.watch(job_id) as ended:
        while not stop.gateway.is_set():
            events = await _read(redis, job_id, position, None if replaying else SLICE_S)
            yield events
            if any(kind in TERMINAL for _, kind, _ in events):
                return
            if events:
                position = events[-1][0]
                if not replaying:
                    await wait_at_most(ended, GATHER_S)
            elif not replaying and await _is_gone(redis, job_id):
                return
            else:
                replaying = False


async def _read(redis: Redis, job_id: str, after: str, block_s: float | None) -> list[StreamEvent]:
    key = events_key(job_id)
    block = None if block_s is None else int(block_s * 1000)
    try:
        found: Any = await redis.xread({key: after}, count=BATCH, block=block)
    except RedisError as error:
        await _outlive(error)
        return []
    if not found:
        return []
    entries = found[key][0] if isinstance(found, dict) else found[0][1]
    return [(event_id, fields["type"], fields["data"]) for event_id, fields in entries]


async def _is_gone(redis: Redis, job_id: str) -> bool:
    try:
        return not await redis.exists(job_key(job_id))
    except RedisError as error:
        await _outlive(error)
        return False


async def _outlive(error: RedisError) -> None:
    """Wait for a Redis that is away: who follows a job has it, and would only come back for it; else raise."""
    if not is_transient(error):
        raise error
    await asyncio.sleep(SLICE_S)


async def server_sent(
    redis: Redis, record: JobRecord, after: str, stop: StopSignals, caller: Caller
) -> AsyncIterator[bytes]:
    """Write the stream as it is sent; live steps carry the latest previews, replayed ones none; URLs are signed anew.

    It ends soon after the caller's key has been revoked or removed.
    """
    live, spoken, checked = False, time.monotonic(), time.monotonic()
    sent: dict[int, int] = {}  # the step of each picture's preview
    async for events in follow(redis, record.id, after, stop):
        if time.monotonic() - checked >= CHECK_S:
            if not await still_accepted(redis, caller):
                return
            checked = time.monotonic()
        if live and record.request.preview_every and any(kind == "step" for _, kind, _ in events):
            newer = await _newer_previews(redis, record.id, sent)
            events = _with_previews(events, newer, record.request.num_images)
            sent |= {index: preview.step for index, preview in newer.items()}
        live = live or not events
        shown = [event for event in events if event[1] != TRACE]
        if shown:
            yield b"".join(_wire(event, caller.urls) for event in shown)
        elif time.monotonic() - spoken >= COMMENT_S:
            yield b": still here\n\n"
        else:
            continue
        spoken = time.monotonic()


def _wire(event: StreamEvent, urls: ImageUrls) -> bytes:
    event_id, kind, data = event
    if kind in ("started", "succeeded") or (kind == "image" and urls != PLAIN):
        data = json.dumps(_with_urls(_for_clients(json.loads(data)), urls))
    return f"id: {event_id}\nevent: {kind}\ndata: {on_one_line(data)}\n\n".encode()


def _for_clients(data: dict[str, Any]) -> dict[str, Any]:
    """Write times as everywhere in answers, and leave out which execution's objects the images are."""
    shown = {name: value for name, value in data.items() if name != "execution"}
    if "started_at" in shown:
        shown["started_at"] = str(shown["started_at"]).replace("+00:00", "Z")
    return shown


def _with_urls(data: dict[str, Any], urls: ImageUrls) -> dict[str, Any]:
    """Make the URLs of an image, or of a result's images, those that the caller is told."""
    if "url" in data:
        return {**data, "url": urls.of(data["url"])}
    if "images" in data:
        return {**data, "images": [_with_urls(image, urls) for image in data["images"]]}
    return data


async def read_previews(redis: Redis, job_id: str) -> dict[int, Preview]:
    """Return the newest preview of each picture of a running job that has one."""
    text = await redis.get(preview_key(job_id))
    return Previews.read(text).newest if text else {}


async def _newer_previews(redis: Redis, job_id: str, sent: Mapping[int, int]) -> dict[int, Preview]:
    found = await read_previews(redis, job_id)
    return {index: preview for index, preview in sorted(found.items()) if preview.step > sent.get(index, 0)}


def _with_previews(events: list[StreamEvent], previews: Mapping[int, Preview], pictures: int) -> list[StreamEvent]:
    """Add previews, if there are any, to the newest step of `events`: the first picture's, and those of several."""
    if not previews:
        return events
    newest = max(i for i, (_, kind, _) in enumerate(events) if kind == "step")
    event_id, kind, data = events[newest]
    carried = json.loads(data)
    if 0 in previews:
        carried |= {"preview": previews[0].image, "preview_step": previews[0].step}
    if pictures > 1:
        carried["previews"] = [{"index": index} | preview.model_dump() for index, preview in previews.items()]
    return [*events[:newest], (event_id, kind, json.dumps(carried)), *events[newest + 1 :]]


async def wait_end(
    redis: Redis, job_id: str, seconds: float, stop: StopSignals, left: Callable[[], Awaitable[bool]]
) -> bool:
    """Wait until the job ends or is gone; False if `seconds` ran out, the client `left` or the gateway stops.

    While Redis is away the job hasn't ended.
    """
    until = time.monotonic() + seconds
    with stop.waiters.watch(job_id) as ended:
        while not stop.gateway.is_set():
            ended.clear()
            if await _has_ended(redis, job_id):
                return True
            remaining = until - time.monotonic()
            if remaining <= 0 or await left():
                return False
            await wait_at_most(ended, min(SLICE_S, remaining))
    return False


async def _has_ended(redis: Redis, job_id: str) -> bool:
    try:
        return await redis.hget(job_key(job_id), "status") in (None, *TERMINAL)
    except RedisError as error:
        if not is_transient(error):
            raise
        return False
