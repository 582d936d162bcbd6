"""Long, weighted and inverted prompts beside plain ones: calls for each length of context, each job as it is alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import InvalidRequest
from models.checkpoints.load import load
from tests import loras
from tests.embeddings import CASE, applied, library_of, write_embeddings
from tests.engines import failures, finished, make_engine, make_request, play
from tests.loras import small_sd, write_loras
from workers.engine.engine import Engine
from workers.engine.messages import Admission, Called
from workers.prompts import PromptCache, Reading

LONG = "a photo of a (small:1.3) red cat, the robot plays guitar, " * 8
JOBS: dict[str, dict[str, object]] = {
    "plain": {"prompt": "a red cat"},
    "long": {"prompt": LONG, "prompt_syntax": "weighted", "negative_prompt": "dog", "sampler": "euler"},
    "longest": {"prompt": "cat BREAK dog BREAK", "negative_prompt": LONG, "prompt_syntax": "weighted"},
    "unguided": {"prompt": LONG, "prompt_syntax": "weighted", "guidance_scale": 1.0, "num_images": 2},
    "skip": {"prompt": "a red cat", "clip_skip": 2},
    "named": {"prompt": "a webui-style cat", "embeddings": ("webui-style",)},
}


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_embeddings(folder)
    return folder


def _engine(models_dir: Path) -> Engine:
    return make_engine({"pipeline": small_sd()}, embeddings=library_of(models_dir), strict_rows=8)


def _job(models_dir: Path, name: str, determinism: str) -> Admission:
    fields = {"model": "pipeline", "determinism": determinism} | JOBS[name]
    names = fields.pop("embeddings", ())
    assert isinstance(names, tuple)
    return Admission(name, make_request(**fields, embeddings=applied(models_dir, *names)))


@pytest.mark.parametrize("determinism", ["strict", "fast"])
def test_each_is_what_it_is_alone(models_dir: Path, determinism: str) -> None:
    jobs = [_job(models_dir, name, determinism) for name in JOBS]
    outcomes = play(_engine(models_dir), jobs)
    assert failures(outcomes) == {}
    assert max(outcome.slots for outcome in outcomes if isinstance(outcome, Called)) > 2
    together, pictures = finished(outcomes), set()
    for job in jobs:
        for key, alone in finished(play(_engine(models_dir), [job])).items():
            one, other = np.asarray(together[key], dtype=int), np.asarray(alone, dtype=int)
            assert np.abs(one - other).max() <= (0 if determinism == "strict" else 1)
            pictures.add(alone.tobytes())
    assert len(pictures) == 7


def test_the_network_is_called_once_where_contexts_are_equally_long(models_dir: Path) -> None:
    model, lengths = small_sd(), list[tuple[int, int]]()
    hook = model.unet.register_forward_hook(lambda _module, args, _out: lengths.append(args[2].shape[:2]))
    try:
        play(_engine(models_dir), [_job(models_dir, name, "fast") for name in ("plain", "skip")])
        assert set(lengths) == {(4, 77)}
        lengths.clear()
        play(_engine(models_dir), [_job(models_dir, name, "fast") for name in ("plain", "long")])
        assert len(lengths) == 8
        assert {rows for rows, length in lengths if length == 77} == {3}
        assert {rows for rows, length in lengths if length > 77} == {1}
    finally:
        hook.remove()


def test_two_towers_read_a_long_prompt_with_an_embedding_against_none_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "embeddings"
    folder.mkdir()
    shutil.copy(CASE / "textual_inversion_sdxl" / "xl-style.safetensors", folder)
    model, library = load(CASE / "textual_inversion_sdxl" / "pipeline"), library_of(tmp_path)
    texts: dict[str, dict[str, object]] = {
        "none": {"prompt": f"xl-style, {LONG}", "negative_prompt": None, "prompt_syntax": "weighted", "clip_skip": 1},
        "plain": {"prompt": "xl-style cat", "negative_prompt": "dog"},
    }
    jobs = [
        Admission(name, make_request(model=model.id, embeddings=applied(tmp_path, "xl-style"), steps=2, **fields))
        for name, fields in texts.items()
    ]
    outcomes = play(make_engine({model.id: model}, embeddings=library), jobs)
    assert (failures(outcomes), len(finished(outcomes))) == ({}, 2)


def test_loras_change_every_chunk_of_a_long_prompt(tmp_path: Path) -> None:
    write_loras(tmp_path)
    model = small_sd()
    adapters = loras.library_of(tmp_path).adapters(model, loras.applied(tmp_path, style=1.0))
    cache = PromptCache()
    without, changed = (
        cache.encoded(model, LONG, Reading("weighted", adapters=own)).context[0] for own in (None, adapters)
    )
    assert len(without) > 77
    assert all(not torch.equal(a, b) for a, b in zip(torch.split(without, 77), torch.split(changed, 77), strict=True))


def test_what_the_model_cannot_read_is_refused_at_admission(models_dir: Path) -> None:
    engine = _engine(models_dir)
    with pytest.raises(InvalidRequest, match=r"clip_skip is \d+; the model has"):
        engine.admit(Admission("a", make_request(model="pipeline", clip_skip=12)))
    bert = make_engine()
    with pytest.raises(InvalidRequest, match="prompt_syntax is of no use to a model without a text encoder of CLIP"):
        bert.admit(Admission("a", make_request(prompt_syntax="weighted")))
    with pytest.raises(InvalidRequest, match="clip_skip"):
        bert.admit(Admission("a", make_request(clip_skip=1)))
    assert not engine.busy
