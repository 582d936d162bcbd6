"""The savepoint of a running job: what a later execution goes on from, written only by the live one."""

from __future__ import annotations

from typing import Any

from redis import Redis

from contract.redis_keys import job_key, state_key
from jobs.run import JobRun

STATE_TTL_S = 86_400

# KEYS: record, state. ARGV: execution, step, model's hash, name and value of the place, TTL. A late writer of the same
# execution doesn't undo a newer state; the same step again, as after a lost answer, is kept. Passing a savepoint
# clears the job of its earlier deaths. The HDEL goes first, so that a full Redis takes states, too: they are of what
# runs only, and a suspect that passes none would keep the others waiting.
_SAVE = """
local state = redis.call('HMGET', KEYS[1], 'status', 'execution')
if state[1] ~= 'running' or state[2] ~= ARGV[1] then return 0 end
local before = redis.call('HMGET', KEYS[2], 'execution', 'step')
if before[1] == ARGV[1] and tonumber(before[2]) > tonumber(ARGV[2]) then return 0 end
redis.call('HDEL', KEYS[1], 'deaths', 'deaths_alone')
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], 'execution', ARGV[1], 'step', ARGV[2], 'model', ARGV[3], ARGV[4], ARGV[5])
redis.call('EXPIRE', KEYS[2], ARGV[6])
return 1
"""


def save(redis: Redis, run: JobRun, step: int, model_hash: str, state: bytes | str) -> bool:
    """Write a savepoint, or the path of one that is in the storage; whether this execution may and it is the newest.

    Raises:
        RedisError: if Redis is away.
    """
    place = "path" if isinstance(state, str) else "data"
    values: tuple[Any, ...] = (run.execution.id, step, model_hash, place, state, STATE_TTL_S)
    return bool(redis.eval(_SAVE, 2, job_key(run.job_id), state_key(run.job_id), *values))


def read_saved(redis: Redis, job_id: str, model_hash: str) -> bytes | str | None:
    """Read what an earlier execution left: the state, or its path in the storage; None if there is none of this model.

    Raises:
        RedisError: if Redis is away.
    """
    found: dict[Any, Any] = redis.hgetall(state_key(job_id))
    if found.get(b"model") != model_hash.encode():
        return None
    return bytes(found[b"data"]) if b"data" in found else str(found[b"path"].decode())
