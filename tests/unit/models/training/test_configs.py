"""Configurations: unknown keys are refused by name, the recipes are read, rates follow from the step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import models.training
from core.errors import ConfigurationError
from models.training.configs.autoencoder import AutoencoderRun
from models.training.configs.base import OptimizerConfig, Strict, read_config, write_config
from models.training.configs.compression import CompressionStudy
from models.training.configs.diffusion import SCRATCH, LdmRun, UpscalerRun
from models.training.configs.emoji import EmojiConfig
from models.training.loop.rates import learning_rate
from tests.training import autoencoder_run, ldm_run, upscaler_run

RECIPES = Path(models.training.__file__).parent / "recipes"
SHAPE = {"channels": (8, 8, 16), "z_channels": 3, "norm_groups": 1}
KINDS: dict[str, type[Strict]] = {
    "data": EmojiConfig, "autoencoder": AutoencoderRun, "ldm": LdmRun, "upscaler": UpscalerRun,
    "compression-study": CompressionStudy,
}  # fmt: skip


@pytest.mark.parametrize("file", sorted(RECIPES.rglob("*.yaml")), ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_recipes_are_read(file: Path) -> None:
    read_config(file, KINDS[file.stem])


def test_grids_have_no_more_steps_than_there_are_timesteps(tmp_path: Path) -> None:
    assert ldm_run(tmp_path, sample_steps=10, schedule={"timesteps": 10}).sample_steps == 10
    with pytest.raises(ValueError, match=r"sample_steps is 11; schedule\.timesteps is 10"):
        ldm_run(tmp_path, sample_steps=11, schedule={"timesteps": 10})
    few: dict[str, Any] = {"sample_steps": 2, "schedule": {"timesteps": 10}}
    assert [ldm_run(tmp_path, **changes).card_steps for changes in ({}, few)] == [20, 10]
    with pytest.raises(ValueError, match=r"card\.steps is 11; schedule\.timesteps is 10"):
        ldm_run(tmp_path, **few, card={"steps": 11})
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        ldm_run(tmp_path, sample_steps=1, schedule={"timesteps": 1})
    with pytest.raises(ValueError, match="less than or equal to 1000"):
        ldm_run(tmp_path, sample_steps=2000)


def test_the_recipe_is_the_default_checkpoints_shape() -> None:
    """The UNet and first stage that it trains have every key and shape of the committed weights."""
    from models.checkpoints.checkpoint import shapes
    from models.checkpoints.layouts.detect import load_checkpoint
    from models.checkpoints.layouts.first_stage import FirstStage
    from models.pipeline.config import ModelConfig
    from models.training.diffusion.model import Condition, model_config

    for name, kind, task in (("emoji", LdmRun, "ldm"), ("emoji-upscale", UpscalerRun, "upscaler")):
        given = load_checkpoint(Path(models.training.__file__).parents[1] / "weights" / name, data=False).config
        run = read_config(RECIPES / name / f"{task}.yaml", kind)
        network = read_config(RECIPES / name / "autoencoder.yaml", AutoencoderRun).autoencoder.network()
        first = FirstStage(network, {}, given.scale_factor)
        ours = model_config(run, first, Condition(given.conditioner))
        assert isinstance(ours, ModelConfig)
        assert shapes(ours) == shapes(given)
        assert ours.schedule == replace(given.schedule, steps_offset=0)  # trailing steps have no offset


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("stepz: 3", "stepz is unknown"),
        ("autoencoder: {kind: kl, channels: [8], z_channels: 3, chanels: 4}", "autoencoder.chanels is unknown"),
        ("steps: 0", "steps is 0"),
        ("[1, 2]", "a mapping of keys is expected"),
        ("a: [", "is no YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "run.yaml"
    write_config(autoencoder_run(tmp_path), file)
    lines = file.read_text("utf-8").splitlines()
    key = text.partition(":")[0]
    kept = [line for line in lines if not line.startswith(key)] if ":" in text and text != "a: [" else []
    if key == "autoencoder":
        kept = [line for line in kept if line.startswith(("out", "steps", "batch"))]
        kept += [f"data: {{folder: {tmp_path}}}", "optimizer: {learning_rate: 0.1}"]
    file.write_text("\n".join([*kept, text]), "utf-8")
    with pytest.raises(ConfigurationError, match=named):
        read_config(file, AutoencoderRun)


def test_a_run_in_its_own_folder_is_called_by_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "style").mkdir()
    monkeypatch.chdir(tmp_path / "style")
    names = [ldm_run(tmp_path, out=out).name for out in (".", "../style", "../other/", tmp_path / "runs" / "a.b")]
    assert names == ["style", "style", "other", "a.b"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.yaml: can't be read"):
        read_config(tmp_path / "none.yaml", LdmRun)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    run = ldm_run(tmp_path, condition={"kind": "class", "width": 16})
    write_config(run, tmp_path / "run.yaml")
    assert read_config(tmp_path / "run.yaml", LdmRun) == run


def test_fields_that_contradict_one_another_are_refused(tmp_path: Path) -> None:
    for changes, named in (
        ({"crops": (30,)}, "multiples of 4"),
        ({"batch": 5, "accumulate": 2}, "must divide"),
        ({"autoencoder": {"kind": "vq", "channels": (8, 8), "z_channels": 3, "norm_groups": 1}}, "needs entries"),
        ({"crops": (16,), "losses": {"adversarial": 0.5}}, "discriminator sees 32"),
        ({"crops": (0,)}, "greater than or equal to 1"),
        ({"optimizer": {"learning_rate": 1e-3, "betas": (0.9, 1.0)}}, "less than 1"),
        ({"optimizer": {"learning_rate": 1e-3, "betas": (-0.1, 0.9)}}, "greater than or equal to 0"),
        ({"features": {"width": 6}}, "multiple of 4"),
        ({"autoencoder": SHAPE | {"attention": (3,)}}, "attention has 3; channels has levels 0 to 2"),
    ):
        with pytest.raises(ValueError, match=named):
            autoencoder_run(tmp_path, **changes)


def test_what_a_run_would_leave_out_is_refused(tmp_path: Path) -> None:
    data = {"folder": tmp_path, "size": 32}
    composed = data | {"compose": {}}
    for changes, named in (
        ({"data": composed | {"flip": True}}, "flip is True; compose .* must be False"),
        ({"data": composed | {"crop": "random"}}, "crop is random; compose .* must be center"),
        ({"data": data | {"zoom": 0.5}}, r"zoom is 0\.5; crop is center"),
        ({"data": composed, "condition": {"kind": "map", "classes": 4}}, r"data\.compose is given"),
        ({"data": data | {"flip": True}}, r"data\.flip is True; cache\.variants is 1"),
        ({"data": data | {"crop": "random"}}, r"data\.crop is random; cache\.variants is 1"),
        ({"data": composed, "condition": {"kind": "class"}}, r"data\.compose\.scenes is 0\.2; two things"),
        ({"card": {"sampler": "DDIM"}}, "must be one of ddim, "),
        ({"unet": {"channels": (16, 32), "heads": 2, "norm_groups": 4, "attention": (2,)}}, "attention has 2"),
        ({"unet": {"channels": (16, 32), "heads": 2, "norm_groups": 4, "attention": (-1,)}}, "attention has -1"),
    ):
        with pytest.raises(ValueError, match=named):
            ldm_run(tmp_path, **changes)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        upscaler_run(tmp_path, crops=(0,))


def test_what_nothing_in_a_run_reads_is_refused(tmp_path: Path) -> None:
    """But for defaults, which the configuration that a run writes has, so that it can be read again."""
    text, given = {"kind": "text", "trained": True}, {"kind": "text", "encoder": tmp_path}
    blind = {"channels": (16, 32), "heads": 2, "norm_groups": 4, "mid_attention": False}
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"drop": 0.2}, r"drop is 0\.2; there is no condition text or class"),
        ({"condition": {"kind": "map", "classes": 4}, "drop": 0.2}, r"drop is 0\.2"),
        ({"condition": text, "full_mask": 0.9}, r"full_mask is 0\.9; concat isn't mask-latent"),
        ({"min_snr": None}, r"min_weight is 0\.05; min_snr is null"),
        *(({"condition": given | {name: 16}}, rf"condition\.{name} is 16; condition\.encoder has") for name in SCRATCH),
        ({"condition": {"kind": "class"}, "prompts": ("x",)}, "prompts .*; no condition text reads them"),
        ({"condition": text, "unet": blind}, "condition text is read where the UNet attends"),
        ({"condition": {"kind": "class"}, "unet": blind}, "condition class is read where the UNet attends"),
    )
    for changes, named in cases:
        with pytest.raises(ValueError, match=named):
            ldm_run(tmp_path, **changes)
    with pytest.raises(ValueError, match="an upscaler reads no text"):
        upscaler_run(tmp_path, prompts=("x",))
    for run in (
        ldm_run(tmp_path, min_snr=None, min_weight=None, unet=blind),
        ldm_run(tmp_path, condition=given, concat="mask-latent", drop=0.2, full_mask=0.9, prompts=("x",)),
        upscaler_run(tmp_path),
    ):
        write_config(run, tmp_path / "run.yaml")
        assert read_config(tmp_path / "run.yaml", type(run)) == run


def test_the_rate_warms_up_holds_and_falls_along_a_cosine() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup=10, decay_from=0.5, final=0.1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[:2] == pytest.approx([0.1, 0.2])
    assert set(rates[9:51]) == {1.0}
    assert rates[75] == pytest.approx(0.55)
    assert rates[99] == pytest.approx(0.1, abs=2e-3)
