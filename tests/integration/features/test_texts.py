"""Weighted prompts, clip skip and embeddings over HTTP: shown by dry runs, refused by name, run by workers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis import Redis

from contract.card import EmbeddingCard, LoraCard
from contract.redis_keys import CARDS_KEY, EMBEDDINGS_KEY, LORAS_KEY
from core.settings import Settings
from models.add_ons.embeddings.scan import scan_embeddings
from models.checkpoints.scan import scan
from tests.embeddings import applied, write_embeddings
from tests.enqueue import digests, enqueue, job_state, make_request
from tests.gateway import PAINTER, mask, png
from tests.integration.rig import Rig, tiny_settings
from tests.loras import CASE
from tests.tiny import write_tiny_upscale

STYLE = LoraCard(id="my-style", hash="a" * 64, context_width=768)
HAND = EmbeddingCard(name="Bad-Hand", hash="b" * 64, family="sd1", widths=(768,), vectors=3)
XL = EmbeddingCard(name="xl-look", hash="c" * 64, family="sdxl", widths=(768, 1280), vectors=2)
BROKEN = EmbeddingCard(name="broken", hash="d" * 64, unserved="not a torch checkpoint, or damaged")


@pytest.fixture
def texts(client: httpx2.Client, redis: Redis) -> httpx2.Client:
    """The gateway with a model of CLIP, one of no CLIP, a LoRA and embeddings that a worker published."""
    clip = {"context_width": 768, "fields": (*PAINTER.fields, "prompt_syntax", "clip_skip")}
    cards = [PAINTER.model_copy(update=clip), PAINTER.model_copy(update={"id": "bert"})]
    redis.hset(CARDS_KEY, mapping={card.id: card.to_json() for card in cards})
    redis.hset(LORAS_KEY, STYLE.id, STYLE.to_json())
    redis.hset(EMBEDDINGS_KEY, mapping={card.name: card.to_json() for card in (XL, HAND, BROKEN)})
    return client


def post(client: httpx2.Client, **fields: Any) -> httpx2.Response:
    query = "?dry_run=true" if fields.pop("dry", False) else ""
    return client.post(f"/v1/txt2img{query}", json={"prompt": "red heart", "model": "painter"} | fields)


def test_embeddings_are_listed_with_their_cards(texts: httpx2.Client) -> None:
    items = texts.get("/v1/embeddings").json()["items"]
    assert [item["name"] for item in items] == ["Bad-Hand", "broken", "xl-look"]
    assert items[0] == HAND.model_dump(mode="json")


def test_embeddings_are_listed_to_the_web_ui_s_clients(texts: httpx2.Client) -> None:
    listed = texts.get("/sdapi/v1/embeddings").json()
    shapes = {
        where: {name: (item["shape"], item["vectors"]) for name, item in listed[where].items()} for where in listed
    }
    assert shapes == {"loaded": {"Bad-Hand": (768, 3), "xl-look": (2048, 2)}, "skipped": {"broken": (0, 0)}}
    assert listed["loaded"]["Bad-Hand"].keys() == {"step", "sd_checkpoint", "sd_checkpoint_name", "shape", "vectors"}


def test_a_weighted_request_is_resolved(texts: httpx2.Client) -> None:
    sent = {"prompt": "(bad-hand:1.2) <lora:my style:0.8>", "negative_prompt": "BAD-HAND", "clip_skip": 2}
    answer = post(texts, prompt_syntax="weighted", **sent)
    assert answer.status_code == 202, answer.text
    request = answer.json()["request"]
    assert (request["prompt"], request["negative_prompt"]) == ("(bad-hand:1.2) ", "BAD-HAND")
    assert request["loras"] == [{"id": "my-style", "scale": 0.8, "hash": STYLE.hash}]
    assert request["embeddings"] == [{"name": "Bad-Hand", "hash": HAND.hash}]
    assert (request["prompt_syntax"], request["clip_skip"]) == ("weighted", 2)
    form = {"prompt": "(a:2)", "model": "painter", "prompt_syntax": "weighted", "clip_skip": "1"}
    answer = texts.post("/v1/inpaint", data=form, files={"image": png(), "mask": mask()})
    assert answer.status_code == 202, answer.text
    assert answer.json()["request"]["clip_skip"] == 1


def test_loras_are_named_as_the_web_ui_does(texts: httpx2.Client, redis: Redis) -> None:
    others = {
        "animals-my-dogs": ("my dogs", "old-dogs"),
        "new-dogs": ("dogs", "old-dogs"),
        "named-dogs": ("cats", "my dogs"),
    }
    for name, names in others.items():
        redis.hset(LORAS_KEY, name, LoraCard(id=name, hash="e" * 64, names=names).to_json())

    def chosen(name: str) -> httpx2.Response:
        return post(texts, prompt=f"red <lora:{name}:0.5>", prompt_syntax="weighted", dry=True)

    said = {name: chosen(name).json()["request"]["loras"][0]["id"] for name in ("new-dogs", "my dogs", "dogs", "cats")}
    assert said == {
        "new-dogs": "new-dogs",
        "my dogs": "animals-my-dogs",  # a file's name goes before another's alias
        "dogs": "new-dogs",
        "cats": "named-dogs",
    }
    both = chosen("old-dogs")
    assert (both.status_code, both.json()["field"]) == (422, "prompt")
    assert both.json()["detail"] == "<lora:old-dogs> names animals-my-dogs, new-dogs; choose by id"


def test_a_plain_request_has_no_word_of_it(texts: httpx2.Client) -> None:
    sent = {"prompt": "(red:1.2) heart <lora:none> BREAK ((((", "prompt_syntax": "plain"}
    request = post(texts, **sent).json()["request"]
    assert request["prompt"] == sent["prompt"]
    assert not {"loras", "embeddings", "prompt_syntax", "clip_skip"} & request.keys()
    assert post(texts, model="bert", prompt="bad-hand", prompt_syntax="plain").status_code == 202
    named = post(texts, prompt="a bad-hand, red").json()["request"]
    assert named["embeddings"] == [{"name": "Bad-Hand", "hash": HAND.hash}]


def test_a_dry_run_shows_chunks_tokens_and_weights(texts: httpx2.Client) -> None:
    prompt = "red (heart on:1.5) a bad-hand BREAK [navy]"
    answer = post(texts, prompt=prompt, negative_prompt="with stars", prompt_syntax="weighted", dry=True).json()
    assert answer["tokens"] == {
        "count": 14,
        "specials": 2,
        "cut": None,
        "chunks": [
            [
                {"text": "red", "tokens": 1, "weight": 1.0},
                {"text": "heart on", "tokens": 2, "weight": 1.5},
                {"text": "a", "tokens": 1, "weight": 1.0},
            ],
            [{"text": "bad-hand", "tokens": 3, "weight": 1.0, "embedding": True}],
            [{"text": "navy", "tokens": 1, "weight": 0.909091}],
        ],
    }
    assert answer["negative_tokens"]["chunks"] == [[{"text": "with stars", "tokens": 2, "weight": 1.0}]]
    assert [warning["field"] for warning in answer["warnings"]] == ["model"]  # nobody serves it here
    plain = post(texts, prompt="red heart", dry=True).json()
    assert plain["tokens"] == {"count": 4, "specials": 2, "cut": None}
    assert "negative_tokens" not in plain


def test_a_plain_prompt_with_embeddings_is_cut_where_their_vectors_leave_no_room(texts: httpx2.Client) -> None:
    answer = post(texts, prompt="red heart on a bad-hand  with stars", dry=True).json()
    assert answer["tokens"]["cut"] == "bad-hand  with stars"
    assert "cut: “bad-hand  with stars”" in answer["warnings"][0]["message"]


@pytest.mark.parametrize(
    ("sent", "status", "field", "said"),
    [
        ({"prompt": "xl-look"}, 422, "prompt", "embedding 'xl-look' is for sdxl, 2048 wide; model painter reads 768"),
        ({"prompt": "broken"}, 422, "prompt", "embedding 'broken' can't be used: not a torch checkpoint"),
        ({"prompt": "(a:1000)", "prompt_syntax": "weighted"}, 422, "prompt", "prompt has a weight of 1000"),
        ({"negative_prompt": "(" * 65, "prompt_syntax": "weighted"}, 422, "negative_prompt", "more than 64 open"),
        ({"prompt": "<lora:dogs>", "prompt_syntax": "weighted"}, 404, "loras", "no LoRA 'dogs'"),
        ({"prompt": "<lora:my-style:9>", "prompt_syntax": "weighted"}, 422, "prompt", "less than or equal to 4"),
        ({"prompt": "<lora:my-style:x>", "prompt_syntax": "weighted"}, 422, "prompt", "<lora:my-style:x> in prompt"),
        ({"prompt": "<lora:my-style:1:2>", "prompt_syntax": "weighted"}, 422, "prompt", "<lora:ID:SCALE>"),
        (
            {"prompt": "<lora:my-style>", "prompt_syntax": "weighted", "loras": [{"id": "my-style"}]},
            422,
            "loras",
            "each LoRA once",
        ),
        ({"clip_skip": 13}, 422, "clip_skip", "clip_skip is 13"),
        ({"clip_skip": 0}, 422, "clip_skip", "clip_skip is 0"),
        ({"clip_skip": 2, "model": "bert"}, 422, "clip_skip", "clip_skip is of no use to model bert"),
        ({"prompt_syntax": "weighted", "model": "bert"}, 422, "prompt_syntax", "has no text encoder of CLIP"),
        ({"prompt_syntax": "compel"}, 422, "prompt_syntax", "prompt_syntax"),
        ({"embeddings": []}, 422, "embeddings", "embeddings"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    texts: httpx2.Client, redis: Redis, sent: dict[str, Any], status: int, field: str, said: str
) -> None:
    before = redis.dbsize()
    answer = post(texts, **sent)
    assert (answer.status_code, answer.json()["field"]) == (status, field)
    assert said in answer.json()["detail"]
    assert redis.dbsize() == before


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> Settings:
    """Settings of workers over a model with CLIP's text tower and embeddings."""
    models = tmp_path / "models"
    shutil.copytree(CASE / "sd1_kohya" / "pipeline", models / "tiny")
    write_tiny_upscale(models / "tiny-upscale")
    write_embeddings(models)
    scan(models)
    scan_embeddings(models)
    return tiny_settings(models, redis_url, tmp_path / "data")


def test_jobs_of_every_kind_of_text_run_and_what_was_replaced_is_noticed(
    redis: Redis, rig: Rig, settings: Settings
) -> None:
    [style] = [each.model_dump() for each in applied(settings.models_dir, "webui-style")]
    asked: dict[str, dict[str, Any]] = {
        "plain": {},
        "skip": {"clip_skip": 2},
        "weighted": {"prompt": "(red:1.5) cat BREAK a dog", "prompt_syntax": "weighted"},
        "named": {"prompt": "a webui-style cat", "embeddings": [style]},
        "hash": {"prompt": "a webui-style cat", "embeddings": [style | {"hash": "0" * 64}]},
    }
    for job_id, fields in asked.items():
        enqueue(redis, job_id, make_request(determinism="strict", **{"prompt": "a cat"} | fields))
    assert rig.finish(*asked) == ["succeeded"] * 4 + ["failed"]
    assert "embedding 'webui-style' was replaced since" in job_state(redis, "hash")["error"]
    assert len({digests(redis, job_id)[0] for job_id in list(asked)[:4]}) == 4
