"""Pieces of stage 2: targets, weights, gradients that reach τθ, conditions of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file

from contract.card import CARD, ModelCard
from core.errors import ConfigurationError
from models.checkpoints import load as loading
from models.checkpoints.inspect import inspect
from models.checkpoints.layouts.detect import load_checkpoint
from models.checkpoints.load import load
from models.networks.conditioning import ClassConfig, SpatialRescaler
from models.networks.make import make_conditioner
from models.networks.unet import UNet
from models.schedule import NoiseSchedule, Prediction, ScheduleConfig
from models.training.configs.diffusion import ScheduleShape, UNetShape
from models.training.data.folder import Folder, Item, read_folder
from models.training.diffusion.model import Trained, _one_hot, condition_of, first_stage_of, model_config
from models.training.diffusion.objective import noised, signal_and_noise, target, timestep_weights
from models.training.diffusion.prepare import low_res
from models.training.diffusion.start import fresh, take_over
from tests.tensors import Largest
from tests.training import autoencoder_run, ldm_run, train, upscaler_run, write_balls
from tests.unit.models.checkpoints.compvis_keys import random_state, sd_shapes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and a first stage."""
    made = tmp_path_factory.mktemp("diffusion")
    write_balls(made / "data")
    train(autoencoder_run(made, steps=2))
    return made


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_min_snr_weighs_the_error_in_x0_alike_whatever_is_predicted(prediction: Prediction) -> None:
    """An error δ in the output is one of factor·δ in x0, so that weight / factor² is min(SNR, γ) for all."""
    schedule = NoiseSchedule(ScheduleConfig(prediction=prediction))
    signal = schedule.alphas_cumprod
    snr = signal / (1 - signal)
    factor = {"eps": 1 / np.sqrt(snr), "v": np.sqrt(1 - signal), "x0": np.ones_like(snr)}[prediction]
    weights = timestep_weights(schedule, 5.0, 0.0).double().numpy()
    assert weights / factor**2 == pytest.approx(np.minimum(snr, 5.0), rel=1e-4)


def test_pure_noise_has_the_floors_weight() -> None:
    schedule = ScheduleShape(prediction="v", zero_terminal_snr=True).schedule()
    assert timestep_weights(schedule, 5.0, 0.05)[-1] == pytest.approx(0.05)
    assert timestep_weights(schedule, 5.0, None)[-1] == pytest.approx(0.05)  # as a run's own default
    assert timestep_weights(ScheduleShape(zero_terminal_snr=False).schedule(), 5.0, None)[-1] < 0.01
    assert timestep_weights(schedule, None, 0.05).tolist() == [1.0] * 1000


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_targets_give_back_the_latent(prediction: Prediction) -> None:
    alpha, sigma = (t[[100, 900]][:, None, None, None] for t in signal_and_noise(ScheduleShape().schedule()))
    x0, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    z_t, told = noised(x0, noise, alpha, sigma), target(prediction, x0, noise, alpha, sigma)
    back = {"eps": (z_t - sigma * told) / alpha, "v": alpha * z_t - sigma * told, "x0": told}[prediction]
    assert torch.allclose(back, x0, atol=1e-4)


def test_eps_at_zero_terminal_snr_is_refused() -> None:
    with pytest.raises(ValueError, match="zero_terminal_snr: false"):
        ScheduleShape(prediction="eps")


CONDITIONS: dict[str, dict[str, Any]] = {
    "text": {"kind": "text", "width": 16, "layers": 1, "heads": 2, "window": 8, "trained": True},
    "class": {"kind": "class", "width": 16},
    "map": {"kind": "map", "classes": 4},
}


@pytest.mark.parametrize("kind", CONDITIONS)
def test_gradients_reach_the_conditioner(folder: Path, kind: str) -> None:
    """Eq. 3: τθ and ε_θ are optimised together, so one step moves the conditioner's weights."""
    run = ldm_run(folder, condition=CONDITIONS[kind], out=folder / kind, steps=3, save_every=3)
    condition = condition_of(run, read_folder(run.data.folder))
    assert condition.config is not None
    train(run)
    states = load(run.out / "checkpoint").conditioner
    assert states is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        fresh(UNet(model_config(run, first_stage_of(run.first_stage), condition).unet))
        before = make_conditioner(condition.config).state_dict()
    moved = [key for key, value in states.state_dict().items() if not torch.equal(value, before[key])]
    assert len(moved) > 0.9 * len(before)
    tasks = {"text": "txt2img", "class": "class2img", "map": "semantic2img"}
    assert tasks[kind] in inspect(run.out / "checkpoint").tasks
    card = ModelCard.model_validate_json((run.out / "checkpoint" / CARD).read_bytes())
    assert card.class_names == (("blue", "green", "red") if kind == "class" else None)


def test_one_hot_maps_are_made_in_no_more_memory_than_they_take_and_foreign_classes_refused() -> None:
    shown = torch.randint(5, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    assert torch.equal(_one_hot(shown, 5).argmax(1), shown)
    assert float(_one_hot(shown, 5).sum()) == shown.numel()
    with Largest() as largest:
        _one_hot(shown, 5)
    assert largest.bytes == 4 * 5 * shown.numel()
    for foreign in (-1, 5):
        with pytest.raises(RuntimeError, match="index"):
            _one_hot(torch.full((1, 8, 8), foreign), 5)


def test_a_frozen_encoder_is_saved_as_it_was_and_its_outputs_are_encoded_once(folder: Path) -> None:
    run = ldm_run(folder, condition=CONDITIONS["text"], out=folder / "joint", steps=1, save_every=1)
    train(run)
    encoder = run.out / "checkpoint"
    frozen = ldm_run(folder, condition={"kind": "text", "encoder": encoder}, out=folder / "frozen", steps=2)
    train(frozen)
    given, kept = load(encoder).conditioner, load(frozen.out / "checkpoint").conditioner
    assert given is not None
    assert kept is not None
    assert all(torch.equal(value, given.state_dict()[key]) for key, value in kept.state_dict().items())
    assert len([*(folder / "cache").rglob("text-*.npy")]) == 1


def test_classes_inside_masks_are_refused(folder: Path) -> None:
    with pytest.raises(ValidationError, match="no request asks for a class inside a mask"):
        ldm_run(folder, condition={"kind": "class"}, concat="mask-latent")


def test_ldms_own_inpainting_and_the_upscaler_are_trained_too(folder: Path) -> None:
    train(ldm_run(folder, concat="latent-mask", out=folder / "lama", steps=1))
    assert inspect(folder / "lama" / "checkpoint").tasks == ("inpaint",)
    train(upscaler_run(folder, steps=1))
    assert inspect(folder / "up" / "checkpoint").tasks == ("upscale",)


def test_fitting_weights_are_taken_over(folder: Path) -> None:
    """An input that reads more than the latent begins with the latent's part, the rest at zero."""
    train(ldm_run(folder, out=folder / "old", steps=2))
    run = ldm_run(folder)
    wider = UNet(run.unet.network(7, 3, None))
    assert take_over(wider, None, run, folder / "old" / "checkpoint").left == ()
    same = load(folder / "old" / "checkpoint").unet.state_dict()
    assert torch.equal(wider.state_dict()["mid_block.resnets.0.conv1.weight"], same["mid_block.resnets.0.conv1.weight"])
    assert torch.equal(wider.conv_in.weight[:, :3], same["conv_in.weight"])
    assert not wider.conv_in.weight[:, 3:].any()


def test_what_would_compute_something_else_isnt_taken_over(folder: Path) -> None:
    eps = {"prediction": "eps", "zero_terminal_snr": False}
    train(ldm_run(folder, out=folder / "eps", steps=1, schedule=eps))
    checkpoint = folder / "eps" / "checkpoint"
    said, silent = ldm_run(folder, schedule=eps), ldm_run(folder)
    take_over(UNet(said.unet.network(3, 3, None)), None, said, checkpoint)
    with pytest.raises(ConfigurationError, match="predicts eps, and the run would learn v, the default") as refused:
        take_over(UNet(said.unet.network(3, 3, None)), None, silent, checkpoint)
    assert refused.value.field == "schedule.prediction"
    for name, value in (("heads", 1), ("norm_groups", 1)):
        other = said.unet.model_copy(update={name: value})
        with pytest.raises(ConfigurationError, match=f"its unet.{name} is ") as refused:
            take_over(UNet(other.network(3, 3, None)), None, said, checkpoint)
        assert refused.value.field == f"unet.{name}"


def test_a_start_predicts_what_it_is_served_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no file tells eps from v, its network is asked; what people have set in the card goes before that."""
    file = tmp_path / "sd2.safetensors"
    save_file(random_state(sd_shapes(width=64, context=64, heads=1, open_clip=True)), file)
    shape = load_checkpoint(file, data=False).config.unet
    monkeypatch.setattr(loading, "tell_prediction", lambda *_: "eps")
    with pytest.raises(ConfigurationError, match="predicts eps, and the run would learn v"):
        take_over(UNet(shape), None, ldm_run(tmp_path), file)
    (tmp_path / "sd2").mkdir()
    (tmp_path / "sd2" / CARD).write_text('{"prediction_type": "v"}', "utf-8")
    assert take_over(UNet(shape), None, ldm_run(tmp_path), file).left == ()


@pytest.mark.parametrize("labels", [998, 999, 1000])
def test_labels_that_make_a_model_look_like_imagenet_s_are_refused(folder: Path, labels: int) -> None:
    """An embedder of 1,000 classes has none of no class; one of 999 labels would have it as its last."""
    names = tuple(f"{i:04}" for i in range(labels))
    items = tuple(Item(Path(f"{name}.png"), label=name) for name in names)
    run = ldm_run(folder, condition={"kind": "class", "width": 16})
    if labels == 999:
        with pytest.raises(ConfigurationError, match="has 999 labels, with that of no class 1000"):
            condition_of(run, Folder(folder, items, names, ""))
    else:
        config = condition_of(run, Folder(folder, items, names, "")).config
        assert isinstance(config, ClassConfig)
        assert config.classes == labels + 1


def test_classes_go_on_with_their_embedder(folder: Path) -> None:
    train(ldm_run(folder, out=folder / "classes", steps=2, condition={"kind": "class", "width": 16}))
    run = ldm_run(folder, out=folder / "more", steps=1, condition={"kind": "class", "width": 16}, seed=9)
    condition = condition_of(run, read_folder(folder / "data", labels=True))
    assert condition.config is not None
    embedder = make_conditioner(condition.config)
    unet = UNet(model_config(run, first_stage_of(run.first_stage), condition).unet)
    assert take_over(unet, embedder, run, folder / "classes" / "checkpoint").left == ()
    given = load(folder / "classes" / "checkpoint").conditioner
    assert given is not None
    assert all(torch.equal(value, given.state_dict()[key]) for key, value in embedder.state_dict().items())
    train(run.model_copy(update={"start_from": folder / "classes" / "checkpoint"}))
    assert inspect(folder / "more" / "checkpoint").tasks == ("class2img",)


def test_levels_may_have_heads_of_their_own() -> None:
    shape = UNetShape(channels=(16, 32), heads=(2, 4), norm_groups=4, attention=(1,))
    assert (shape.network(3, 3, None).heads, shape.network(3, 3, None).mid_heads) == ((2, 4), 4)
    for heads, told in (((2,), "one for each of channels"), (0, "a number from 1 on"), ((2, 5), "heads is 5")):
        with pytest.raises(ValueError, match=told):
            UNetShape(channels=(16, 32), heads=heads, norm_groups=4)


def test_small_pictures_are_the_mean_of_large_ones_in_eight_bits() -> None:
    small = low_res(torch.full((1, 3, 16, 16), 0.25), 4)
    assert small.shape == (1, 3, 4, 4)
    levels = (small + 1) * 127.5
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert torch.allclose(small, torch.full_like(small, 0.25), atol=1 / 255)


def test_the_network_starts_by_answering_nothing(folder: Path) -> None:
    run = ldm_run(folder)
    network = Trained(fresh(UNet(run.unet.network(3, 3, None))), None)
    assert torch.equal(network(torch.randn(1, 3, 8, 8), torch.tensor([5]), {}), torch.zeros(1, 3, 8, 8))


def test_crops_larger_than_a_latent_are_refused_early(folder: Path) -> None:
    run = upscaler_run(folder, crops=(4, 300), out=folder / "crops", cache={"folder": folder / "crops-cache"})
    with pytest.raises(ConfigurationError, match=r"crops has 300; latents of data\.size 32 are 8 a side"):
        train(run)
    assert not (folder / "crops-cache").exists()


def test_label_maps_of_other_classes_are_refused(folder: Path) -> None:
    run = ldm_run(folder, condition={"kind": "map", "classes": 2}, cache={"folder": folder / "maps"})
    with pytest.raises(
        ConfigurationError, match=r"\.png: has class \d; condition\.classes is 2, so that the last is 1"
    ):
        train(run)


def test_label_maps_have_up_to_256_classes(tmp_path: Path) -> None:
    """Class 255 goes through the cache's bytes and the embedding of each class as itself."""
    train(autoencoder_run(tmp_path, data={"folder": write_balls(tmp_path / "data", count=4), "size": 32}, steps=1))
    for file in (tmp_path / "data").glob("*-map.png"):
        Image.new("L", (32, 32), 255).save(file)
    run = ldm_run(tmp_path, condition={"kind": "map", "classes": 256}, steps=1)
    train(run)
    assert (np.load(next((tmp_path / "cache").rglob("map.npy"))) == 255).all()
    rescaler = load(run.out / "checkpoint").conditioner
    assert isinstance(rescaler, SpatialRescaler)
    assert rescaler.config.in_channels == 256
    with pytest.raises(ValidationError, match="less than or equal to 256"):
        ldm_run(tmp_path, condition={"kind": "map", "classes": 257})


def test_label_maps_that_a_run_of_more_classes_encoded_are_refused_too(folder: Path) -> None:
    maps, cache = {"kind": "map", "classes": 4}, {"folder": folder / "kept-maps"}
    train(ldm_run(folder, condition=maps, cache=cache, out=folder / "four", steps=1))
    run = ldm_run(folder, condition=maps | {"classes": 2}, cache=cache, out=folder / "two", steps=1)
    with pytest.raises(ConfigurationError, match=r"-map\.png: has class \d; condition\.classes is 2"):
        train(run)


def test_a_class_that_is_held_out_wholly_is_refused_early(folder: Path) -> None:
    """It would be served, and never trained."""
    data = {"folder": folder / "data", "size": 32, "held_out": 0.7}
    run = ldm_run(folder, condition=CONDITIONS["class"], data=data, out=folder / "untrained")
    with pytest.raises(ConfigurationError, match=r"data\.held_out leaves no picture of \d of 3 classes"):
        train(run)


def test_sizes_that_dont_come_out_even_are_refused_early(folder: Path) -> None:
    run = ldm_run(folder, data={"folder": folder / "data", "size": 36})
    with pytest.raises(ConfigurationError, match=r"data\.size is 36"):
        train(run)
