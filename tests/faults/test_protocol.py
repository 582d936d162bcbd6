"""The claim and fence protocol under any order of claims, ends, deaths, late writers, cancellations and sweeps."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis import Redis
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.utils import as_text

from contract.job import TERMINAL
from core.errors import JobFailed
from jobs.cancel import cancel
from jobs.claim import POP
from jobs.end import Canceled, Ending, Failed, HandedBack, Publisher, Succeeded
from jobs.run import JobRun
from tests.enqueue import enqueue, event_types, job_state, make_request, open_queue
from tests.unit.workers.parts import RETENTION, SHARED, TINY, make_claims, make_worker
from workers.queue.events import EventWriter
from workers.queue.reaper import STUCK_S, Reaper

WORKERS = ("w0", "w1", "w2")
RQ_TERMINAL = {"succeeded": JobStatus.FINISHED, "failed": JobStatus.FAILED, "canceled": JobStatus.CANCELED}
workers = st.sampled_from(WORKERS)
picks = st.integers(0, 99)


class Protocol(RuleBasedStateMachine):
    """Three workers, some of them dead and unaware of it, on one queue."""

    redis: Redis

    def __init__(self) -> None:
        super().__init__()
        self.redis.flushall()
        self.queue = open_queue(self.redis, make_request())
        self.made = {name: make_worker(self.redis, name) for name in WORKERS}
        self.claims = {name: make_claims(worker) for name, worker in self.made.items()}
        self.held: list[tuple[str, JobRun]] = []
        self.jobs: list[str] = []
        self.now = 0.0
        self.reaper = Reaper(self.redis, [self.queue], RETENTION, "reaper", clock=lambda: self.now)

    @rule()
    def accept(self) -> None:
        self.jobs.append(f"j{len(self.jobs)}")
        enqueue(self.redis, self.jobs[-1], make_request())

    @rule(name=workers)
    def claim(self, name: str) -> None:
        held = self.claims[name].next(TINY)
        if held is not None:
            self.held.append((name, held))

    @rule()
    def die_between_pop_and_start(self) -> None:
        self.redis.eval(POP, 4, "rq:suspended", "none", self.queue.key, self.queue.intermediate_queue_key, 0)

    @rule(pick=picks, ending=st.sampled_from(("succeeded", "failed", "canceled", "queued")))
    @precondition(lambda self: self.held)
    def end(self, pick: int, ending: str) -> None:
        """Also by executions that lost their job."""
        name, held = self.held.pop(pick % len(self.held))
        self._publish(name, held, ending)

    @rule(pick=picks)
    @precondition(lambda self: self.held)
    def answer_lost(self, pick: int) -> None:
        """The connection broke behind EXEC: the same end is written again."""
        name, held = self.held.pop(pick % len(self.held))
        first, again = (self._publish(name, held, "succeeded") for _ in range(2))
        assert again or not first

    def _publish(self, name: str, held: JobRun, ending: str) -> bool:
        endings: dict[str, Ending] = {
            "succeeded": Succeeded(held.result()),
            "failed": Failed(JobFailed("it did").problem()),
            "canceled": Canceled(),
            "queued": HandedBack(),
        }
        live = job_state(self.redis, held.job_id).get("execution") == held.execution.id
        written = Publisher(self.made[name], self.redis, RETENTION).end(held, endings[ending]) is not None
        assert written <= live
        return written

    @rule(pick=picks)
    @precondition(lambda self: self.held)
    def tell(self, pick: int) -> None:
        held = self.held[pick % len(self.held)][1]
        progress = EventWriter(self.redis)
        progress.step(held, 1, {}, SHARED)
        live = job_state(self.redis, held.job_id).get("execution") == held.execution.id
        assert (held.job_id in progress.write()) != live

    @rule(pick=picks)
    @precondition(lambda self: self.held)
    def lapse(self, pick: int) -> None:
        """No heartbeat came for too long; the worker may still live and not know it."""
        self.redis.delete(self.held[pick % len(self.held)][1].execution.key)

    @rule(pick=picks)
    @precondition(lambda self: self.jobs)
    def cancel(self, pick: int) -> None:
        cancel(self.redis, RETENTION, self.jobs[pick % len(self.jobs)])

    @rule()
    def sweep(self) -> None:
        self.now += STUCK_S + 1
        self.reaper.turn()

    @invariant()
    def every_job_is_in_one_place(self) -> None:
        waiting = [as_text(job_id) for job_id in self.redis.lrange(self.queue.key, 0, -1)]
        popped = [as_text(job_id) for job_id in self.redis.lrange(self.queue.intermediate_queue_key, 0, -1)]
        running = dict(StartedJobRegistry(queue=self.queue).get_job_and_execution_ids())
        for job_id in self.jobs:
            state = job_state(self.redis, job_id)
            ends = [kind for kind in event_types(self.redis, job_id) if kind in TERMINAL]
            rq_status = Job.fetch(job_id, connection=self.redis, serializer=JSONSerializer).get_status()
            if state["status"] in TERMINAL:
                assert ends == [state["status"]]
                assert rq_status == RQ_TERMINAL[state["status"]]
                assert event_types(self.redis, job_id)[-1] == ends[0]
            elif state["status"] == "running":
                assert ends == []
                assert rq_status == JobStatus.STARTED
                assert job_id in running
                assert job_id not in waiting
            else:
                assert ends == []
                assert waiting.count(job_id) + popped.count(job_id) == 1

    def teardown(self) -> None:
        """Whatever happened: once workers live again, every job ends, once."""
        for _, held in self.held:
            self.redis.delete(held.execution.key)
        for _ in range(3):
            self.sweep()
        while (last := self.claims["w0"].next(TINY)) is not None:
            assert self._publish("w0", last, "succeeded")
        self.every_job_is_in_one_place()
        assert {job_state(self.redis, job_id)["status"] for job_id in self.jobs} <= TERMINAL
        assert StartedJobRegistry(queue=self.queue).count == 0
        assert self.redis.llen(self.queue.key) == self.redis.llen(self.queue.intermediate_queue_key) == 0
        super().teardown()


@pytest.mark.timeout(120)
def test_any_order_of_events_ends_every_job_once(redis: Redis) -> None:
    machine = type("Machine", (Protocol,), {"redis": redis})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15,
            stateful_step_count=30,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # to shrink takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
