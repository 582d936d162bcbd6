"""Which job a worker runs isolated, announced to whoever finds that worker dead: the death counts against that job."""

from __future__ import annotations

from redis import Redis

from contract.redis_keys import isolated_key, job_key
from jobs.run import JobRun

ISOLATED_S = 86_400  # the key of a dead worker tells the reapers until then

# KEYS: record, the worker's key. ARGV: execution, job id, TTL.
ANNOUNCE = """
local state = redis.call('HMGET', KEYS[1], 'status', 'execution')
if state[1] ~= 'running' or state[2] ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
return 1
"""


def announce_isolated(redis: Redis, run: JobRun) -> bool:
    """Say that from now on a death of the worker is this job's; False if another execution has it.

    Raises:
        RedisError: if Redis is away.
    """
    keys = (job_key(run.job_id), isolated_key(run.execution.worker_name))
    return bool(redis.eval(ANNOUNCE, 2, *keys, run.execution.id, run.job_id, ISOLATED_S))


def withdraw_isolated(redis: Redis, run: JobRun) -> None:
    """Say that the worker's jobs run together again.

    Raises:
        RedisError: if Redis is away.
    """
    redis.delete(isolated_key(run.execution.worker_name))
