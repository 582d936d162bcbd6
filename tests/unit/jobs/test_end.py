from __future__ import annotations

import json

import pytest
from redis import Redis
from rq.job import Job, JobStatus
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.worker.base import BaseWorker

from contract.job import ImageInfo, JobResult, Timings
from contract.redis_keys import CANCELING_KEY, RETRIES_KEY, events_key, job_key, spent_key, work_key
from core.errors import JobFailed
from jobs.cancel import cancel
from jobs.end import Canceled, Ending, Failed, HandedBack, Publisher, Retention, Succeeded
from jobs.recover import recover
from jobs.run import JobRun
from tests.enqueue import enqueue, event_types, job_state, make_request
from tests.unit.workers.parts import claim, make_worker

RETENTION_S = 600
IMAGE = ImageInfo(id="a-0", url="/v1/images/a-0", seed=7, width=64, height=64, format="png", bytes=3, sha256="00")

RESULT = JobResult(execution="e", images=(IMAGE,), timings=Timings())


def start(redis: Redis) -> tuple[Publisher, JobRun]:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request())
    run = claim(worker)
    run.images[0] = IMAGE
    return Publisher(worker, redis, Retention(RETENTION_S, 60)), run


def fetch(redis: Redis) -> Job:
    return Job.fetch("a", connection=redis, serializer=JSONSerializer)


def test_success_is_written_everywhere_at_once(redis: Redis) -> None:
    publisher, run = start(redis)
    assert publisher.end(run, Succeeded(run.result()))
    state = job_state(redis, "a")
    assert (state["status"], state["step"]) == ("succeeded", "4")
    result = JobResult.model_validate_json(state["result"])
    assert (result.execution, result.images) == (run.execution.id, (IMAGE,))
    assert event_types(redis, "a") == ["queued", "started", "succeeded"]
    job = fetch(redis)
    assert job.get_status() == JobStatus.FINISHED
    assert job.return_value() == {"images": ["a-0"]}
    assert FinishedJobRegistry(queue=run.queue).get_job_ids() == ["a"]
    assert StartedJobRegistry(queue=run.queue).count == 0
    assert not redis.exists(run.execution.key)
    assert not redis.hexists(work_key("tiny", "interactive"), "a")
    for key in (job_key("a"), events_key("a"), "rq:job:a", "rq:results:a"):
        assert 0 < int(redis.ttl(key)) <= RETENTION_S


def test_the_workers_totals_are_true(redis: Redis) -> None:
    publisher, run = start(redis)
    publisher.end(run, Succeeded(run.result()))
    found = [one for one in BaseWorker.all(connection=redis) if one.name == "worker-a"]
    assert (found[0].successful_job_count, found[0].failed_job_count) == (1, 0)
    assert found[0].get_current_executions() == []


def test_failure_keeps_the_problem_and_tells_rq_the_detail_only(redis: Redis) -> None:
    publisher, run = start(redis)
    problem = JobFailed("the latents are NaN", field="steps", value=4).problem()
    assert publisher.end(run, Failed(problem))
    assert json.loads(job_state(redis, "a")["error"]) == problem.model_dump()
    assert event_types(redis, "a")[-1] == "failed"
    job = fetch(redis)
    assert job.get_status() == JobStatus.FAILED
    assert [result.exc_string for result in job.results()] == ["the latents are NaN"]
    assert FailedJobRegistry(queue=run.queue).get_job_ids() == ["a"]
    assert 0 < int(redis.ttl("rq:job:a")) <= RETENTION_S


def test_cancelling_ends_with_a_ttl(redis: Redis) -> None:
    publisher, run = start(redis)
    redis.sadd(CANCELING_KEY, "a")
    assert publisher.end(run, Canceled())
    assert job_state(redis, "a")["status"] == "canceled"
    assert event_types(redis, "a")[-1] == "canceled"
    assert fetch(redis).get_status() == JobStatus.CANCELED
    assert CanceledJobRegistry(queue=run.queue).get_job_ids() == ["a"]
    assert 0 < int(redis.ttl("rq:job:a")) <= RETENTION_S
    assert redis.scard(CANCELING_KEY) == 0


def test_handing_back_queues_in_front_and_spends_no_retry(redis: Redis) -> None:
    publisher, run = start(redis)
    enqueue(redis, "b", make_request())
    assert publisher.end(run, HandedBack())
    assert redis.lrange(run.queue.key, 0, -1) == [b"a", b"b"]
    job = fetch(redis)
    assert (job.get_status(), job.retries_left) == (JobStatus.QUEUED, 1000)
    assert redis.hget(RETRIES_KEY, "handed_back") == b"1"
    assert job_state(redis, "a")["status"] == "queued"
    assert redis.hexists(work_key("tiny", "interactive"), "a")
    again = claim(make_worker(redis, "worker-b"))
    assert (again.job_id, again.resumed) == ("a", True)


def test_who_claims_it_again_starts_with_the_steps_that_were_counted(redis: Redis) -> None:
    publisher, run = start(redis)
    redis.hset(job_key("a"), mapping={"step": "3", "steps": "7"})  # of which an estimate knows nothing
    assert publisher.end(run, HandedBack())
    again = claim(make_worker(redis, "worker-b"))
    assert (again.shown, again.steps, run.request.run_steps == 7) == (3, 7, False)


@pytest.mark.parametrize("charged_s", [0.0, 2.5, 100.0])
@pytest.mark.parametrize("ending", [Canceled(), Failed(JobFailed("no").problem()), Succeeded(RESULT)])
def test_a_budget_has_paid_what_was_measured(redis: Redis, ending: Ending, charged_s: float) -> None:
    """Whatever was predicted, nothing (a model that no worker had measured) included."""
    publisher, run = start(redis)
    run.record = run.record.model_copy(update={"owner": "k1", "charged_s": charged_s})
    run.earlier_gpu_s, run.encode_s, run.gpu_s, run.decode_s = 1.0, 0.25, 2.0, 0.5
    spent = spent_key("k1", run.created_at)
    redis.set(spent, 10 + charged_s)
    assert publisher.end(run, ending)
    assert publisher.end(run, ending), "as after an answer that was lost"
    assert float(redis.get(spent) or 0) == 13.75
    assert int(redis.ttl(spent)) > 0


def test_handing_back_settles_nothing_and_no_owner_owes_anything(redis: Redis) -> None:
    publisher, run = start(redis)
    run.gpu_s = 2.0
    publisher.end(run, HandedBack())
    other = make_worker(redis, "worker-b")
    again = claim(other)
    again.gpu_s = 2.0
    Publisher(other, redis, Retention(RETENTION_S, 60)).end(again, Canceled())
    assert not list(redis.scan_iter("latentd:spent:*"))


@pytest.mark.parametrize("ending", [Canceled(), HandedBack(), Failed(JobFailed("no").problem())])
def test_a_stale_execution_writes_nothing(redis: Redis, ending: Ending) -> None:
    publisher, run = start(redis)
    publisher.end(run, HandedBack())
    live = claim(make_worker(redis, "worker-b"))
    before = redis.hgetall(job_key("a"))
    assert not publisher.end(run, ending)
    assert not publisher.end(run, Succeeded(run.result()))
    assert redis.hgetall(job_key("a")) == before
    assert StartedJobRegistry(queue=live.queue).get_job_and_execution_ids() == [("a", live.execution.id)]


def test_a_lapsed_execution_writes_nothing(redis: Redis) -> None:
    publisher, run = start(redis)
    redis.zrem("rq:wip:latentd.tiny.interactive", run.execution.composite_key)
    assert not publisher.end(run, Succeeded(run.result()))
    assert job_state(redis, "a")["status"] == "running"


def test_what_a_client_wants_ended_is_not_handed_back(redis: Redis) -> None:
    """No other worker may come for long."""
    publisher, run = start(redis)
    assert cancel(redis, Retention(RETENTION_S, 60), "a") == "running"
    assert publisher.end(run, HandedBack()) == Canceled()
    assert job_state(redis, "a")["status"] == "canceled"
    assert redis.llen(run.queue.key) == redis.hlen(RETRIES_KEY) == 0
    assert event_types(redis, "a")[-1] == "canceled"


@pytest.mark.parametrize("ending", [Succeeded(RESULT), HandedBack(), Canceled()])
def test_what_rq_canceled_while_it_ran_is_canceled_here(redis: Redis, ending: Ending) -> None:
    publisher, run = start(redis)
    fetch(redis).cancel()
    assert publisher.end(run, ending) == Canceled()
    assert (job_state(redis, "a")["status"], event_types(redis, "a")[-1]) == ("canceled", "canceled")
    assert CanceledJobRegistry(queue=run.queue).get_job_ids() == ["a"]


def test_what_others_ended_is_not_this_workers(redis: Redis) -> None:
    publisher, run = start(redis)
    cancel(redis, Retention(RETENTION_S, 60), "a")
    assert not recover(redis, run.queue, run.execution.composite_key, Retention(RETENTION_S, 60), orphaned=True)
    assert publisher.end(run, Succeeded(run.result())) is None
    assert job_state(redis, "a")["status"] == "canceled"


def test_an_ending_whose_answer_was_lost_is_recognised(redis: Redis) -> None:
    publisher, run = start(redis)
    assert publisher.end(run, Succeeded(run.result()))
    assert publisher.end(run, Succeeded(run.result()))
    assert event_types(redis, "a") == ["queued", "started", "succeeded"]


def test_no_prompt_reaches_what_rq_shows(redis: Redis) -> None:
    publisher, run = start(redis)
    publisher.end(run, Failed(JobFailed("out of range").problem()))
    job = fetch(redis)
    assert job.description == "txt2img a"
    shown = [job.description, *(str(result.exc_string) for result in job.results())]
    assert not any("heart" in str(text) for text in shown)
