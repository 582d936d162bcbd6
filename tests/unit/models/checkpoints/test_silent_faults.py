"""Files that load and would draw wrong pictures in silence, each with what its network was trained for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.errors import CheckpointError
from core.settings import WEIGHTS_DIR
from models.checkpoints import load as loading
from models.checkpoints.convert import Target, convert
from models.checkpoints.layouts.compvis.conditioner import read_conditioner
from models.checkpoints.layouts.compvis.prediction import tell_prediction
from models.checkpoints.layouts.detect import load_checkpoint
from models.checkpoints.layouts.diffusers.scheduler import read_scheduler
from models.checkpoints.load import load
from models.checkpoints.scan import scan
from models.networks.conditioning import TextConfig
from models.schedule import Prediction
from models.tokenizers.prompts import load_tokenizer
from tests.parity.run import CASES, SD1_FILE, SD1_FOLDER
from tests.unit.models.checkpoints.compvis_keys import meta_state, open_clip_shapes, random_state, sd_shapes

X4_FOLDER = CASES / "diffusers" / "stable_diffusion_upscale" / "pipeline"
FIRST = "model.diffusion_model.input_blocks.0.0.weight"
DEFAULTS = {"interpolation_type": "linear", "lower_order_final": True, "lambda_min_clipped": float("-inf")}


@pytest.fixture(scope="module")
def sd2() -> dict[str, Tensor]:
    return random_state(sd_shapes(width=64, context=64, heads=1, open_clip=True))


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")


def test_sd2_inpainting_predicts_eps(sd2: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(sd2 | {FIRST: torch.zeros(64, 9, 3, 3)}, tmp_path / "m.safetensors")
    checkpoint = load_checkpoint(tmp_path / "m.safetensors")
    assert (checkpoint.config.schedule.prediction, checkpoint.prediction_assumed) == ("eps", False)
    assert checkpoint.config.latent_size == 64


def test_sd_turbo_is_sd2_under_the_names_of_xl(sd2: dict[str, Tensor], tmp_path: Path) -> None:
    own, theirs = "cond_stage_model.model.", "conditioner.embedders.0.model."
    save_file(sd2, tmp_path / "sd_turbo.safetensors")
    expected = load_checkpoint(tmp_path / "sd_turbo.safetensors")
    save_file({key.replace(own, theirs): value for key, value in sd2.items()}, tmp_path / "sd_turbo.safetensors")
    found = load_checkpoint(tmp_path / "sd_turbo.safetensors")
    assert (found.config, found.prediction_assumed) == (expected.config, True)
    assert (found.sampler, found.assumptions) == (expected.sampler, expected.assumptions)
    assert found.states["conditioner"].keys() == expected.states["conditioner"].keys()


def test_the_v_model_is_as_large_as_it_was_trained_whatever_its_yaml_says(
    sd2: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(sd2, tmp_path / "m.safetensors")
    params = {"parameterization": "v", "image_size": 64, "unet_config": {"params": {"num_head_channels": 64}}}
    (tmp_path / "m.yaml").write_text(json.dumps({"model": {"params": params}}), "utf-8")
    config = load_checkpoint(tmp_path / "m.safetensors").config
    assert (config.schedule.prediction, config.latent_size) == ("v", 96)


@pytest.mark.parametrize(
    ("metadata", "prediction", "size"),
    [
        ({"modelspec.prediction_type": "epsilon"}, "eps", 64),
        ({"modelspec.prediction_type": "v"}, "v", 96),
        ({"modelspec.architecture": "stable-diffusion-v2-512"}, "eps", 64),
    ],
)
def test_metadata_tells_eps_from_v(
    metadata: dict[str, str], prediction: str, size: int, sd2: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(sd2, tmp_path / "m.safetensors", metadata)
    checkpoint = load_checkpoint(tmp_path / "m.safetensors")
    assert (checkpoint.config.schedule.prediction, checkpoint.prediction_assumed) == (prediction, False)
    assert checkpoint.config.latent_size == size


def test_marker_keys_tell_v_and_zero_terminal_snr(tmp_path: Path) -> None:
    save_file(load_file(SD1_FILE) | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, tmp_path / "m.safetensors")
    schedule = load_checkpoint(tmp_path / "m.safetensors").config.schedule
    assert (schedule.prediction, schedule.zero_terminal_snr, schedule.spacing) == ("v", True, "trailing")


@pytest.mark.parametrize("path", [SD1_FILE, SD1_FOLDER])
def test_what_people_set_in_the_card_wins(path: Path, tmp_path: Path) -> None:
    (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / ("m" + path.suffix))
    if path.is_file():
        shutil.copytree(SD1_FOLDER / "tokenizer", tmp_path / "tokenizer")
    (found,) = scan(tmp_path)
    assert load(found.card.parent).schedule.config.prediction == "eps"
    edit(found.card, prediction_type="v")
    assert load(found.card.parent).schedule.config.prediction == "v"
    assert load(found.path).schedule.config.prediction == "v"


def test_a_network_that_gives_the_noise_back_predicts_eps() -> None:
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert tell_prediction(lambda z_t: 0.9 * z_t + 0.3 * noisy, 4, 8) == "eps"
    assert tell_prediction(lambda z_t: 0.07 * z_t - noisy, 4, 8) == "v"


def test_a_trained_network_is_told_by_one_call() -> None:
    emoji = load(WEIGHTS_DIR / "emoji")
    assert loading.asked(emoji) == emoji.config.schedule.prediction == "v"


@pytest.mark.parametrize(("answer", "size"), [("eps", 512), ("v", 768)])
def test_where_nothing_tells_the_network_is_asked_once_and_the_card_notes_it(
    answer: Prediction, size: int, sd2: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(sd2, tmp_path / "m.safetensors")
    (found,) = scan(tmp_path)
    assert "can't be told" in found.notes[1]
    edit(found.card, licence="mine")
    monkeypatch.setattr(loading, "tell_prediction", lambda *_: answer)
    assert load(found.card.parent).schedule.config.prediction == answer
    card = json.loads(found.card.read_text("utf-8"))
    assert (card["prediction_type"], card["native_size"], card["licence"]) == (answer, size, "mine")
    (again,) = scan(tmp_path)
    assert f"{answer}, by a call of the network" in again.notes[1]
    monkeypatch.setattr(loading, "tell_prediction", lambda *_: pytest.fail("asked twice"))
    assert load(found.card.parent).schedule.config.prediction == answer


@pytest.mark.parametrize("to", ["native", "diffusers"])
@pytest.mark.parametrize(("answer", "size"), [("eps", 512), ("v", 768)])
def test_a_conversion_asks_the_network_before_it_writes_what_that_predicts(
    answer: Prediction, size: int, to: Target, sd2: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(sd2, tmp_path / "m.safetensors")
    monkeypatch.setattr(loading, "tell_prediction", lambda *_: answer)
    out = convert(tmp_path / "m.safetensors", tmp_path / "out", to)
    card = json.loads((out / "card.json").read_text("utf-8"))
    assert (card["prediction_type"], card["native_size"]) == (answer, size)
    assert "is assumed" not in card["description"]
    config = load_checkpoint(out).config
    assert (config.schedule.prediction, config.latent_size) == (answer, size // 8)


def test_what_was_decided_of_a_file_is_converted_with_its_size(
    sd2: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(sd2, tmp_path / "m.safetensors")
    (found,) = scan(tmp_path)
    edit(found.card, prediction_type="eps")
    monkeypatch.setattr(loading, "tell_prediction", lambda *_: pytest.fail("the card says it"))
    config = load_checkpoint(convert(found.card.parent, tmp_path / "out", "native")).config
    assert (config.schedule.prediction, config.latent_size) == ("eps", 64)


@pytest.mark.parametrize("layers", [23, 24])
def test_a_text_tower_without_its_last_layer_loses_no_other(layers: int) -> None:
    found = read_conditioner(meta_state(open_clip_shapes(1024, layers)), {}, 0, None)
    assert found is not None
    assert isinstance(found[0], TextConfig)
    assert found[0].towers[0].layers == 23


def test_the_config_of_another_model_is_not_applied(tmp_path: Path) -> None:
    expected = {}
    for name in ("a", "b"):
        shutil.copy(SD1_FILE, tmp_path / f"{name}.safetensors")
        expected[name] = load_checkpoint(tmp_path / f"{name}.safetensors").config
    params = {"scale_factor": 9.0, "parameterization": "v", "unet_config": {"params": {"num_heads": 2}}}
    (tmp_path / "config.yaml").write_text(json.dumps({"model": {"params": params}}), "utf-8")
    for name, config in expected.items():
        assert load_checkpoint(tmp_path / f"{name}.safetensors").config == config
    (tmp_path / "b.safetensors").unlink()
    assert load_checkpoint(tmp_path / "a.safetensors").config.scale_factor == 9.0  # its own folder
    params["unet_config"] = {"params": {"num_heads": 2, "model_channels": 320}}
    (tmp_path / "config.yaml").write_text(json.dumps({"model": {"params": params}}), "utf-8")
    assert load_checkpoint(tmp_path / "a.safetensors").config == expected["a"]


@pytest.mark.parametrize("change", [{"clip_sample": True}, {"clip_sample": None}, {"steps_offset": 0}])
def test_old_schedulers_are_read_as_the_pipelines_of_diffusers_do(change: dict[str, Any], tmp_path: Path) -> None:
    folder = shutil.copytree(SD1_FOLDER, tmp_path / "old")
    scheduler = folder / "scheduler" / "scheduler_config.json"
    edit(scheduler, **change)
    assert load_checkpoint(folder).config.schedule == load_checkpoint(SD1_FOLDER).config.schedule
    kept = {key: value for key, value in json.loads(scheduler.read_text("utf-8")).items() if key not in change}
    scheduler.write_text(json.dumps(kept), "utf-8")
    assert load_checkpoint(folder).config.schedule == load_checkpoint(SD1_FOLDER).config.schedule


def test_the_upscalers_old_scaling_factor_is_not_its_own(tmp_path: Path) -> None:
    folder = shutil.copytree(X4_FOLDER, tmp_path / "old")
    edit(folder / "vae" / "config.json", scaling_factor=0.18215)
    assert load_checkpoint(folder).config.scale_factor == 0.08333


@pytest.mark.parametrize(
    ("case", "vae", "scale"), [("ldm_unconditional", "vqvae", 1.0), (SD1_FOLDER.parent.name, "vae", 0.18215)]
)
@pytest.mark.parametrize("said", [{}, {"scaling_factor": None}])
def test_first_stages_that_say_no_scale_have_that_of_their_training(
    case: str, vae: str, scale: float, said: dict[str, Any], tmp_path: Path
) -> None:
    folder = shutil.copytree(CASES / "diffusers" / case / "pipeline", tmp_path / "old")
    config = json.loads((folder / vae / "config.json").read_text("utf-8"))
    del config["scaling_factor"]
    (folder / vae / "config.json").write_text(json.dumps(config | said), "utf-8")
    assert load_checkpoint(folder).config.scale_factor == scale


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ({"sample_size": 32, "_diffusers_version": "0.6.0"}, 64),
        ({"sample_size": 96, "_diffusers_version": "0.8.1"}, 96),
        ({"sample_size": 32, "_diffusers_version": "0.9.0"}, 32),
        ({"sample_size": 32, "_diffusers_version": "0.29.2"}, 32),
        ({"sample_size": [96, 96]}, 96),
        ({"sample_size": [64, 96]}, 64),
        ({"sample_size": None}, 64),
    ],
)
def test_the_size_of_old_and_silent_folders_is_that_of_their_training(
    said: dict[str, Any], size: int, tmp_path: Path
) -> None:
    folder = shutil.copytree(SD1_FOLDER, tmp_path / "m")
    edit(folder / "unet" / "config.json", **said)
    assert load_checkpoint(folder).config.latent_size == size


@pytest.mark.parametrize(("folder", "size"), [(CASES / "sdxl" / "sdxl_base" / "pipeline", 128), (X4_FOLDER, None)])
def test_xl_without_a_size_is_as_large_as_it_was_trained(folder: Path, size: int | None, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "m")
    edit(copy / "unet" / "config.json", sample_size=None)
    assert load_checkpoint(copy).config.latent_size == size


def test_sdxl_is_told_by_its_network_whatever_its_pipeline_is_called(tmp_path: Path) -> None:
    folder = shutil.copytree(CASES / "sdxl" / "sdxl_base" / "pipeline", tmp_path / "m")
    expected = load_checkpoint(folder).config
    edit(folder / "model_index.json", _class_name="PhotoMakerStableDiffusionXLPipeline")
    assert load_checkpoint(folder).config == expected


@pytest.mark.parametrize(
    ("config", "sampler", "note"),
    [
        ({"_class_name": "PNDMScheduler", "skip_prk_steps": True}, "plms", ""),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 2}, "dpmpp_2m", ""),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}, "dpmpp_2m", "solver_order 3"),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}, "dpmpp_2m_sde", ""),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "solver_order": 3},
            "dpmpp_3m_sde_diffusers",
            "",
        ),
        ({"_class_name": "EulerDiscreteScheduler", "use_beta_sigmas": True}, "euler", "use_beta_sigmas True"),
        ({"_class_name": "EulerDiscreteScheduler", "interpolation_type": "log_linear"}, "euler", "'log_linear'"),
        ({"_class_name": "UniPCMultistepScheduler", "lower_order_final": False}, "unipc", "lower_order_final False"),
        ({"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -5.1}, "dpmpp_2m", "clipped -5.1"),
        (DEFAULTS | {"_class_name": "DPMSolverMultistepScheduler"}, "dpmpp_2m", ""),
        ({"_class_name": "HeunDiscreteScheduler"}, "heun", ""),
        ({"_class_name": "LCMScheduler", "original_inference_steps": 25}, "lcm", "original_inference_steps 25"),
        ({"_class_name": "DEISMultistepScheduler"}, None, "there is no sampler for DEISMultistepScheduler"),
        ({"_class_name": "DDIMScheduler", "timestep_spacing": None}, "ddim", ""),
    ],
)
def test_what_a_scheduler_asks_for_is_done_or_told(config: dict[str, Any], sampler: str | None, note: str) -> None:
    read = read_scheduler(config, "StableDiffusionPipeline")
    assert read.sampler == sampler
    assert len(read.notes) == bool(note)
    assert note in "".join(read.notes)


def test_schedulers_of_flows_are_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match="FlowMatchEulerDiscreteScheduler"):
        read_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "StableDiffusionPipeline")


def test_the_folders_scheduler_is_the_cards_default(tmp_path: Path) -> None:
    folder = shutil.copytree(SD1_FOLDER, tmp_path / "m")
    edit(folder / "scheduler" / "scheduler_config.json", _class_name="EulerDiscreteScheduler", use_karras_sigmas=True)
    (found,) = scan(tmp_path)
    defaults = json.loads(found.card.read_text("utf-8"))["defaults"]
    assert (defaults["sampler"], defaults["schedule"]) == ("euler", "diffusers_karras")
    assert not found.notes


def test_words_of_bert_beside_a_file_are_not_those_of_clip(sd2: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(sd2, tmp_path / "m.safetensors")
    (expected,) = load_checkpoint(tmp_path / "m.safetensors", data=False).tokenizers
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nred\ncat\n", "utf-8")
    (found,) = load_checkpoint(tmp_path / "m.safetensors", data=False).tokenizers
    assert found(["a red cat"])[0].tolist() == expected(["a red cat"])[0].tolist()


def test_added_tokens_are_read(tmp_path: Path) -> None:
    folder = shutil.copytree(SD1_FOLDER / "tokenizer", tmp_path / "tokenizer")
    size = load_tokenizer(folder, 77).tokenizer.get_vocab_size()
    (folder / "added_tokens.json").write_text(json.dumps({"<Cat>": size}), "utf-8")
    ids, _ = load_tokenizer(folder, 77)(["a <Cat>."])
    assert size in ids[0].tolist()
    (folder / "added_tokens.json").write_text(json.dumps({"<Cat>": size + 5}), "utf-8")
    with pytest.raises(CheckpointError, match="'<Cat>' has number"):
        load_tokenizer(folder, 77)
