from __future__ import annotations

import base64
import json
from typing import Any

from redis import Redis

from contract.events import STEP_EVENTS_KEPT, TELL_S, Preview, Previews, Shared
from contract.job import ImageInfo
from contract.redis_keys import CANCELING_KEY, events_key, job_key, preview_key
from jobs.end import HandedBack, Publisher, Succeeded
from tests.enqueue import enqueue, event_types, job_state, make_request
from tests.unit.workers.parts import RETENTION, SHARED, claim, make_worker
from workers.queue.events import EventWriter, earlier_steps

IMAGE = ImageInfo(id="a-0", url="/v1/images/a-0", seed=7, width=64, height=64, format="png", bytes=3, sha256="00")


def test_steps_images_and_previews_are_written_in_one_flush(redis: Redis) -> None:
    enqueue(redis, "a", make_request(num_images=2))
    run, progress = claim(make_worker(redis)), EventWriter(redis)
    progress.step(run, 3, {0: b"webp"}, SHARED)
    progress.image(run, 0, IMAGE)
    news = progress.flush(["a"])
    assert (news.canceled, news.lost) == (frozenset(), frozenset())
    assert event_types(redis, "a") == ["queued", "started", "step", "image"]
    events = redis.xrange(events_key("a"))
    assert events
    assert [json.loads(fields[b"data"]) for _, fields in events[2:] if fields] == [
        {"step": 3, "steps": 8},
        json.loads(IMAGE.to_json()),
    ]
    assert job_state(redis, "a")["step"] == "3"
    newest = Previews.read(redis.get(preview_key("a")) or b"").newest
    assert newest == {0: Preview(step=3, image=base64.b64encode(b"webp").decode())}
    assert 0 < int(redis.ttl(preview_key("a"))) <= 300


def test_steps_that_follow_each_other_fast_are_told_together_and_none_is_lost_to_the_trace(redis: Redis) -> None:
    enqueue(redis, "a", make_request(num_images=2))
    now = [0.0]
    run, progress = claim(make_worker(redis)), EventWriter(redis, lambda: now[0])
    for step in range(1, 8):
        progress.step(run, step, {0: b"webp"} if step == 3 else {}, SHARED.model_copy(update={"gpu_s": step / 10}))
        progress.flush(["a"])
        now[0] += TELL_S / 3.5
    progress.image(run, 0, IMAGE)
    progress.flush(["a"])
    assert event_types(redis, "a") == ["queued", "started", "step", "step", "step", "image"]
    told = [(json.loads(fields[b"data"])["step"], Shared.read(fields[b"trace"])) for fields in steps_of(redis)]
    assert [(step, [each.step for each in note.before]) for step, note in told] == [(1, []), (5, [2, 3, 4]), (7, [6])]
    assert [each.ago_ms for each in told[1][1].before] == [214, 143, 71]
    assert Previews.read(redis.get(preview_key("a")) or b"").newest[0].step == 3


def test_the_newest_preview_of_each_picture_is_kept(redis: Redis) -> None:
    enqueue(redis, "a", make_request(num_images=4))
    now = [0.0]
    run, progress = claim(make_worker(redis)), EventWriter(redis, lambda: now[0])
    for step, previews in ((2, {2: b"early"}), (4, {0: b"0", 1: b"1"}), (6, {}), (8, {1: b"one", 2: b"2"})):
        progress.step(run, step, previews, SHARED)
        progress.flush(["a"])
        now[0] += TELL_S
        stored = redis.get(preview_key("a")) or b""
        if step == 2:
            assert Previews.read(stored).newest.keys() == {2}, "of a resumed job the first may have ended"
    found = {k: (each.step, base64.b64decode(each.image)) for k, each in Previews.read(stored).newest.items()}
    assert found == {0: (4, b"0"), 1: (8, b"one"), 2: (8, b"2")}
    assert event_types(redis, "a").count("step") == 4


def test_what_waits_of_an_ending_job_is_written_before_its_end(redis: Redis) -> None:
    enqueue(redis, "a", make_request())
    run, progress = claim(make_worker(redis)), EventWriter(redis, lambda: 0.0)
    for step in (1, 2, 3):
        progress.step(run, step, {}, SHARED)
        progress.flush(["a"])
    assert job_state(redis, "a")["step"] == "1"
    assert progress.write() == frozenset()
    assert job_state(redis, "a")["step"] == "3"
    assert progress.write() == frozenset(), "once is enough"
    assert event_types(redis, "a") == ["queued", "started", "step", "step"]


def test_only_the_newest_steps_are_kept_and_nothing_else_is_trimmed(redis: Redis) -> None:
    enqueue(redis, "a", make_request(steps=1000, num_images=2))
    now = [0.0]
    run, progress = claim(make_worker(redis)), EventWriter(redis, lambda: now[0])
    for step in range(1, 1301):
        progress.step(run, step, {}, SHARED)
        progress.flush(["a"])
        now[0] += TELL_S
        if step == 100:
            progress.image(run, 0, IMAGE)
    types = event_types(redis, "a")
    assert types[:2] == ["queued", "started"]
    assert (types.count("step"), types.count("image")) == (STEP_EVENTS_KEPT, 1)
    events = redis.xrange(events_key("a"))
    assert events
    steps = [json.loads(fields[b"data"])["step"] for _, fields in events if fields and fields[b"type"] == b"step"]
    assert steps == list(range(301, 1301))


def test_a_resumed_job_trims_what_earlier_executions_wrote(redis: Redis) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request(steps=1000, num_images=2))
    now = [0.0]
    first, progress = claim(worker), EventWriter(redis, lambda: now[0])
    for step in range(1, 1001):
        progress.step(first, step, {}, SHARED)
        progress.flush(["a"])
        now[0] += TELL_S
    Publisher(worker, redis, RETENTION).end(first, HandedBack())
    second = claim(worker)
    second.step_ids.extend(earlier_steps(redis, "a"))
    progress.step(second, 1, {}, SHARED)
    progress.flush(["a"])
    assert event_types(redis, "a").count("step") == STEP_EVENTS_KEPT


def steps_of(redis: Redis) -> list[dict[Any, Any]]:
    """Fields of the step events of job a."""
    entries = redis.xrange(events_key("a")) or []
    return [dict(fields) for _, fields in entries if fields and fields[b"type"] == b"step"]


def test_cancellations_of_this_worker_s_runs_are_answered(redis: Redis) -> None:
    redis.sadd(CANCELING_KEY, "b", "z")
    assert EventWriter(redis).flush(["a", "b"]).canceled == {"b"}
    assert EventWriter(redis).flush([]).canceled == frozenset()


def test_a_stale_or_ended_execution_writes_no_event(redis: Redis) -> None:
    worker = make_worker(redis)
    enqueue(redis, "a", make_request())
    old, progress, publisher = claim(worker), EventWriter(redis), Publisher(worker, redis, RETENTION)
    publisher.end(old, HandedBack())
    new = claim(worker)
    progress.step(old, 2, {0: b"late"}, SHARED)
    assert progress.flush(["a"]).lost == {"a"}
    publisher.end(new, Succeeded(new.result()))
    progress.step(new, 3, {0: b"later"}, SHARED)
    progress.flush(["a"])
    assert event_types(redis, "a") == ["queued", "started", "succeeded"]
    assert not redis.exists(preview_key("a"))


def test_a_purged_job_leaves_nothing_behind(redis: Redis) -> None:
    enqueue(redis, "a", make_request())
    run, progress = claim(make_worker(redis)), EventWriter(redis)
    redis.delete(job_key("a"), events_key("a"))
    progress.step(run, 1, {0: b"x"}, SHARED)
    progress.flush(["a"])
    assert redis.exists(job_key("a"), events_key("a"), preview_key("a")) == 0


def test_events_of_an_ended_job_are_forgotten(redis: Redis) -> None:
    enqueue(redis, "a", make_request())
    run, progress = claim(make_worker(redis)), EventWriter(redis)
    progress.step(run, 1, {}, SHARED)
    progress.forget(run)
    progress.flush(["a"])
    assert event_types(redis, "a") == ["queued", "started"]
