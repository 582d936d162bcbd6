"""LoRAs over HTTP: listed, resolved to files, refused by name with nothing enqueued; jobs with them run and resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis import Redis

from contract.card import LoraCard
from contract.events import TRACE
from contract.redis_keys import CARDS_KEY, LORAS_KEY, events_key
from core.settings import Settings
from models.add_ons.loras.scan import scan_loras
from tests.enqueue import digests, enqueue, job_state, make_request
from tests.gateway import PAINTER, mask, png
from tests.integration.conftest import MakeRig
from tests.integration.rig import Rig, break_at, tiny_settings, write_models
from tests.loras import applied, write_loras, write_middle

STYLE = LoraCard(id="style", hash="a" * 64, family="sd1", context_width=768, rank=8, trigger_words=("sks",))
XL = LoraCard(id="xl", hash="b" * 64, family="sdxl", context_width=2048)
LOHA = LoraCard(id="loha", hash="c" * 64, unserved="LoHa is not served (its key x.hada_w1_a)")


@pytest.fixture
def loras(client: httpx2.Client, redis: Redis) -> httpx2.Client:
    """The gateway with a model and three LoRAs that a worker published."""
    card = PAINTER.model_copy(update={"context_width": 768})
    redis.hset(CARDS_KEY, card.id, card.to_json())
    redis.hset(LORAS_KEY, mapping={lora.id: lora.to_json() for lora in (XL, STYLE, LOHA)})
    return client


def post(client: httpx2.Client, **fields: Any) -> httpx2.Response:
    return client.post("/v1/txt2img", json={"prompt": "red heart", "model": "painter"} | fields)


def test_they_are_listed_with_their_cards(loras: httpx2.Client) -> None:
    items = loras.get("/v1/loras").json()["items"]
    assert [item["id"] for item in items] == ["loha", "style", "xl"]
    assert items[1] == STYLE.model_dump(mode="json")


def test_a_request_is_resolved_to_the_file(loras: httpx2.Client) -> None:
    answer = post(loras, loras=[{"id": "style", "scale": -0.5}])
    assert answer.status_code == 202, answer.text
    assert answer.json()["request"]["loras"] == [{"id": "style", "scale": -0.5, "hash": STYLE.hash}]
    assert "loras" not in post(loras).json()["request"]
    form = {"prompt": "x", "model": "painter", "loras": json.dumps([{"id": "style"}])}
    answer = loras.post("/v1/inpaint", data=form, files={"image": png(), "mask": mask()})
    assert answer.status_code == 202, answer.text
    assert answer.json()["request"]["loras"] == [{"id": "style", "scale": 1.0, "hash": STYLE.hash}]


@pytest.mark.parametrize(
    ("sent", "status", "named"),
    [
        ([{"id": "nobody"}], 404, "no LoRA 'nobody'; known ones: loha, style, xl"),
        ([{"id": "xl"}], 422, "LoRA xl is for sdxl, with a context of width 2048; model painter reads 768"),
        ([{"id": "loha"}], 422, "LoRA loha can't be used: LoHa is not served"),
        ([{"id": "style", "scale": 4.5}], 422, "loras.0.scale is 4.5"),
        ([{"id": "style"}, {"id": "style"}], 422, "each LoRA once"),
        ([{"id": f"l{i}"} for i in range(9)], 422, "a list of at most 8"),
        ([{"path": "/etc/passwd"}], 422, "loras.0.id"),
    ],
    ids=["unknown", "family", "unserved", "scale", "twice", "many", "path"],
)
def test_what_cannot_be_is_refused_by_name(
    loras: httpx2.Client, redis: Redis, sent: list[dict[str, Any]], status: int, named: str
) -> None:
    before = redis.dbsize()
    answer = post(loras, loras=sent)
    assert answer.status_code == status
    assert answer.json()["field"] == "loras"
    assert named in answer.json()["detail"]
    assert redis.dbsize() == before


def test_a_model_that_reads_no_text_takes_none(loras: httpx2.Client) -> None:
    answer = loras.post("/v1/upscale", files={"image": png()}, data={"loras": '[{"id": "style"}]'})
    assert (answer.status_code, answer.json()["field"]) == (422, "loras")


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    """Settings of workers over models and LoRAs of one folder."""
    models = write_models(tmp_path / "models")
    write_middle(write_loras(models) / "middle.safetensors")
    scan_loras(models)  # writes the cards, as workers do when they start
    return tiny_settings(models, redis_url, tmp_path / "data").model_copy(update={"strict_rows": 8})


def test_jobs_with_loras_run_and_what_a_worker_cannot_apply_ends_its_job_by_name(
    redis: Redis, rig: Rig, settings: Settings
) -> None:
    [middle], [style] = applied(settings.models_dir, middle=0.7), applied(settings.models_dir, style=1.0)
    asked = {"middle": [middle], "plain": [], "layers": [style], "hash": [middle.model_copy(update={"hash": "0" * 64})]}
    for job_id, loras in asked.items():
        enqueue(redis, job_id, make_request(loras=[lora.model_dump() for lora in loras]))
    assert rig.finish(*asked) == ["succeeded", "succeeded", "failed", "failed"]
    assert "lora 'style': style.safetensors: the model has no place" in job_state(redis, "layers")["error"]
    assert "lora 'middle' was replaced since the job was accepted" in job_state(redis, "hash")["error"]
    assert digests(redis, "middle") != digests(redis, "plain")


def test_one_call_of_the_trace_carries_different_loras_and_none_with_the_bytes_of_each_alone(
    redis: Redis, make_rig: MakeRig, settings: Settings
) -> None:
    write_middle(settings.models_dir / "Lora" / "other.safetensors", seed=1)
    scan_loras(settings.models_dir)
    asked: dict[str, tuple[dict[str, float], str, float]] = {
        "none": ({}, "ddim", 3.0),
        "a": ({"other": 1.0}, "euler", 3.0),
        "b": ({"middle": 0.8}, "plms", 1.0),
        "less": ({"middle": 0.3}, "dpmpp_2m", 4.0),
        "both": ({"middle": -0.5, "other": 0.4}, "unipc", 1.0),
    }
    requests = {}
    for name, (scales, sampler, guidance) in asked.items():
        loras = [lora.model_dump() for lora in applied(settings.models_dir, **scales)]
        requests[name] = make_request(
            loras=loras, sampler=sampler, guidance_scale=guidance, determinism="strict", steps=8
        )
        enqueue(redis, name, requests[name])
    together = make_rig("together")
    assert together.finish(*requests) == ["succeeded"] * 5
    for name, request in requests.items():
        assert max(shared_jobs(redis, name)) == 5
        enqueue(redis, f"{name}-alone", request)
        assert together.finish(f"{name}-alone") == ["succeeded"]
        assert set(shared_jobs(redis, f"{name}-alone")) == {1}
        assert digests(redis, f"{name}-alone") == digests(redis, name)
    assert len({digests(redis, name)[0] for name in requests}) == 5


def shared_jobs(redis: Redis, job_id: str) -> list[int]:
    """How many jobs were in the calls of each of a job's steps, by its trace."""
    entries = redis.xrange(events_key(job_id)) or []
    steps = [fields for _, fields in entries if fields and fields[b"type"] == b"step"]
    return [json.loads(fields[TRACE.encode()])["jobs"] for fields in steps]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_lora_that_is_replaced_between_savepoint_and_resumption_is_noticed(
    redis: Redis, make_rig: MakeRig, settings: Settings, replaced: bool
) -> None:
    first, second = make_rig("first", save_s=0), make_rig("second")
    loras = [lora.model_dump() for lora in applied(settings.models_dir, middle=0.7)]
    enqueue(redis, "a", make_request(loras=loras, steps=30))
    break_at(redis, first, "a", 10)
    if replaced:
        write_middle(settings.models_dir / "Lora" / "middle.safetensors", seed=1)
    second.reaper.turn()
    assert second.finish("a") == ["failed" if replaced else "succeeded"]
    assert ("replaced since" in job_state(redis, "a").get("error", "")) == replaced
