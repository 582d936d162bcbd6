"""Both stages from pictures to a checkpoint that is inspected and served: losses fall, samples beat noise."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
from torch import Tensor

from models.checkpoints.inspect import inspect
from models.checkpoints.load import load
from models.evaluation.near_noise import near_noise
from models.inputs import Inputs
from models.pipeline.pipeline import LatentDiffusion
from models.pipeline.sampling import Conditioning, sample
from models.samplers.compile import compile_plan
from models.samplers.noise import X_T, noise
from models.training.data.folder import read_folder
from models.training.data.loader import centred, fixed_pictures
from models.training.diffusion.show import Sampling, Shown, sampled
from models.training.loop.logbook import LOG, PLOT, SAMPLES, TENSORBOARD
from tests.engines import finished, make_engine, make_request, play
from tests.training import COLOURS, SIZE, autoencoder_run, ldm_run, losses, train, write_balls
from workers.engine.messages import Admission

PROMPTS = tuple(f"{colour} ball" for colour in COLOURS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which both stages have been trained, τθ with the UNet."""
    folder = tmp_path_factory.mktemp("trained")
    write_balls(folder / "data")
    train(autoencoder_run(folder, steps=120, batch=4, save_every=120, sample_every=120))
    condition = {"kind": "text", "width": 32, "layers": 1, "heads": 2, "window": 8, "trained": True}
    run = ldm_run(folder, steps=160, batch=12, condition=condition, save_every=160, prompts=PROMPTS, sample_every=160)
    train(run)
    return folder


def test_both_losses_fall(trained: Path) -> None:
    for stage, share in (("first", 0.4), ("ldm", 0.6)):
        values = losses(trained / stage)
        assert mean(values[-20:]) < share * mean(values[:20])


def test_the_log_has_a_plot_samples_and_tensorboard_files(trained: Path) -> None:
    for stage in ("first", "ldm"):
        folder = trained / stage
        assert (folder / LOG).is_file()
        assert (folder / PLOT).is_file()
        assert [*(folder / SAMPLES).glob("*.png")]
        assert [*(folder / TENSORBOARD).glob("events.*")]


def test_samples_are_nearer_to_what_was_asked_than_decoded_noise(trained: Path) -> None:
    """By squared error to the nearest training picture of the asked colour."""
    model = load(trained / "ldm" / "checkpoint")
    drawn = sampled(model, Sampling(SIZE, 12, 2.0, seed=0), Shown(3, PROMPTS))
    guess = model.decode(torch.stack([noise(k, X_T, 0, drawn_shape(model)) for k in range(3)])).float()
    folder = read_folder(trained / "data")
    pictures = fixed_pictures(folder, ldm_run(trained).data, 0, len(folder.items))
    for k, colour in enumerate(COLOURS):
        asked = pictures[[i for i, item in enumerate(folder.items) if item.label == colour]]
        assert nearest(drawn[k], asked) < 0.5 * nearest(guess[k], asked)


def test_near_noise_the_own_text_explains_pictures_and_anothers_misleads(trained: Path) -> None:
    """`eval` measures it; a text that says nothing explains nothing, and the same noise gives the same figures."""
    model, folder = load(trained / "ldm" / "checkpoint"), read_folder(trained / "data")
    pictures = fixed_pictures(folder, ldm_run(trained).data, 0, len(folder.items))
    captions = [item.captions[0] for item in folder.items]
    texts = {"own": captions, "another's": captions[1:] + captions[:1], "none": [""] * len(captions)}
    measured = {name: near_noise(model, name, pictures, prompts, seed=0) for name, prompts in texts.items()}
    explained = {name: figures[-1].value for name, (figures, _) in measured.items()}
    assert [figure.name for figure in measured["own"][0]] == [
        "error at timestep 950, with the text",
        "error at timestep 950, without",
        "explained by the text",
    ]
    assert explained["own"] > 0.3
    assert explained["another's"] < -0.3
    assert explained["none"] == pytest.approx(0.0, abs=1e-6)
    own, none = (float((centred(measured[name][1]) - pictures).square().mean()) for name in ("own", "none"))
    assert own < none
    assert near_noise(model, "own", pictures, captions, seed=0)[0] == measured["own"][0]


def drawn_shape(model: LatentDiffusion) -> tuple[int, int, int]:
    return model.latent_channels, 8, 8


def nearest(picture: Tensor, others: Tensor) -> float:
    return float((others - picture.clamp(-1, 1)).square().mean((1, 2, 3)).min())


def test_inspect_reads_stage_and_checkpoint(trained: Path) -> None:
    assert "First stage alone: KL, f=4" in inspect(trained / "first" / "first_stage").description
    report = inspect(trained / "ldm" / "checkpoint")
    assert report.tasks == ("txt2img", "inpaint", "img2img")
    assert {part.name for part in report.parts} == {"unet", "first_stage", "conditioner"}


def test_the_engine_serves_it(trained: Path) -> None:
    """The engine's picture is that of a whole run of the sampling code, whose noise it shares."""
    model = load(trained / "ldm" / "checkpoint")
    engine = make_engine({model.id: model})
    request = make_request(model=model.id, prompt="red ball", guidance_scale=1.0, steps=4, width=64, height=64, seed=3)
    picture = finished(play(engine, [Admission("job", request, {})]))["job", 0]
    z = noise(3, X_T, 0, (model.latent_channels, 16, 16))[None]
    inputs = Conditioning(Inputs(context=model.encode_prompts(["red ball"]).context))
    whole = model.decode(sample(model, compile_plan("ddim", model.schedule, 4), z, inputs))
    drawn = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) / 127.5 - 1
    assert float((whole[0].clamp(-1, 1) - drawn).abs().max()) < 0.05
