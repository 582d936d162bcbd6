"""Which worker does what one is enough for: sweeping a queue costs Redis as much as there are workers and jobs.

A lease lapses by itself, so that another worker takes over from one that died.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import Redis

from contract.redis_keys import lease_key

LEASE_S = 10.0  # two sweeps; with the 15 s of a heartbeat a dead leader's own jobs wait no longer than others

# KEYS: leases. ARGV: who asks, for how many ms. Answers the indices in KEYS of those that it has from now on.
LEASE = """
local has = {}
for i, key in ipairs(KEYS) do
  local holder = redis.call('GET', key)
  if not holder or holder == ARGV[1] then
    redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
    has[#has + 1] = i
  end
end
return has
"""


class Leases:
    """Leases of one worker."""

    def __init__(self, redis: Redis, worker: str) -> None:
        self._script = redis.register_script(LEASE)
        self._worker = worker

    def take(self, wanted: Sequence[str]) -> set[str]:
        """Take those of `wanted` that no other worker has, for 10 s from now.

        Raises:
            RedisError: if Redis is away.
        """
        has: Any = self._script([lease_key(what) for what in wanted], [self._worker, int(1000 * LEASE_S)])
        return {wanted[index - 1] for index in has}
