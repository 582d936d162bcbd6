"""Commands that a pipeline has gathered, as arguments of one script.

A full Redis refuses a MULTI of which any command needs memory, but takes every command of a script behind a first write
that needs none. What ends and removes jobs must go through there: it is what makes room.
"""

from __future__ import annotations

from collections.abc import Iterator

from redis.asyncio.client import Pipeline as AsyncPipeline
from redis.client import Pipeline
from redis.typing import EncodableT

from contract.redis_keys import NOTHING_KEY

# Lua: runs the commands in ARGV from `at` on, each behind its length.
RUN = f"""
local function run(at)
  redis.call('DEL', '{NOTHING_KEY}')
  while ARGV[at] do
    local last = at + tonumber(ARGV[at])
    redis.call(unpack(ARGV, at + 1, last))
    at = last + 1
  end
end
"""
_ALONE = f"{RUN} run(1)"


def flat(pipe: Pipeline | AsyncPipeline) -> Iterator[EncodableT]:
    """Give what `pipe` has gathered as RUN reads it."""
    for command, _ in pipe.command_stack:
        yield len(command)
        yield from command


def as_script(pipe: Pipeline | AsyncPipeline) -> None:
    """Put one script in the place of the commands that `pipe` has gathered, if there are any."""
    if arguments := list(flat(pipe)):
        pipe.command_stack.clear()
        pipe.eval(_ALONE, 0, *arguments)
