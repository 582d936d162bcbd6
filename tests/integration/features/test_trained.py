"""What was trained here is served: both stages and a LoRA, through gateway, Redis and worker."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from redis import Redis

from models.add_ons.loras.scan import scan_loras
from models.training.configs.diffusion import LoraRun
from models.training.lora.run import run_lora
from tests.enqueue import digests
from tests.gateway import running
from tests.integration.rig import Rig, tiny_settings
from tests.training import SIZE, autoencoder_run, ldm_run, train, write_balls
from workers.library.catalogue import write_missing_cards

TEXT = {"kind": "text", "width": 16, "layers": 1, "heads": 2, "window": 8, "trained": True}


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models directory with what three short runs wrote, put there as docs/training.md says."""
    made = tmp_path_factory.mktemp("trained")
    write_balls(made / "data")
    train(autoencoder_run(made, steps=4, save_every=4))
    train(ldm_run(made, out=made / "balls", steps=2, save_every=2, condition=TEXT))
    adapter = LoraRun.model_validate(
        dict(
            out=made / "brush",
            model=made / "balls" / "checkpoint",
            steps=3,
            batch=4,
            data={"folder": made / "data", "size": SIZE},
            optimizer={"learning_rate": 1e-1, "warmup": 1},
            cache={"folder": made / "cache"},
            sample_steps=1,
        )
    )
    assert run_lora(adapter, "cpu", report=lambda _: None, stop=lambda: False)
    models = made / "models"
    shutil.copytree(made / "balls" / "checkpoint", models / "balls")
    (models / "Lora").mkdir()
    shutil.copy(made / "brush" / "brush.safetensors", models / "Lora")
    write_missing_cards(models)
    scan_loras(models)
    return models


def test_a_trained_model_and_lora_draw_for_a_client(
    redis: Redis, redis_url: str, models_dir: Path, tmp_path: Path
) -> None:
    settings = tiny_settings(models_dir, redis_url, tmp_path).model_copy(update={"model": "balls"})
    worker = Rig(redis, settings, models=("balls",))
    asked = {"prompt": "red ball", "model": "balls", "width": 64, "height": 64, "steps": 3, "seed": 5}
    try:
        with running(settings) as client:
            plain = client.post("/v1/txt2img", json=asked)
            assert plain.status_code == 202, plain.text
            drawn_by = client.post("/v1/txt2img", json=asked | {"loras": [{"id": "brush"}]})
            assert drawn_by.status_code == 202, drawn_by.text
            jobs = [answer.json()["id"] for answer in (plain, drawn_by)]
            assert worker.finish(*jobs) == ["succeeded", "succeeded"]
            for job in jobs:
                [image] = client.get(f"/v1/jobs/{job}").json()["images"]
                picture = client.get(image["url"])
                assert (picture.status_code, picture.content[:4]) == (200, b"\x89PNG")
            assert digests(redis, jobs[0]) != digests(redis, jobs[1])
    finally:
        worker.close()
