"""RQ's queues of a model that is gone for good."""

from __future__ import annotations

from redis.client import Pipeline
from rq.queue import Queue
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry

from contract.base import LANES, queue_name
from contract.redis_keys import queue_key, wake_key

REGISTRIES = (FinishedJobRegistry, FailedJobRegistry, CanceledJobRegistry)


def remove_queues(pipe: Pipeline, model: str) -> None:
    """Let RQ's lists name a model's queues no more, in which nothing waits or runs; jobs that ended keep their records.

    No worker of another model sweeps its registries.
    """
    for name in (queue_name(model, lane) for lane in LANES):
        pipe.srem(Queue.redis_queues_keys, queue_key(name))
        pipe.delete(wake_key(name), *(registry.key_template.format(name) for registry in REGISTRIES))
