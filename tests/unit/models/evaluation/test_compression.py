"""The compression study, tiny: two factors, in pieces, to JSON and a plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from core.errors import ConfigurationError
from models.evaluation.compression import PLOT, RESULT, first_stage_run, study
from models.networks.autoencoder import Autoencoder
from models.training.configs.base import read_config, write_config
from models.training.configs.compression import CHANNELS, CompressionStudy
from models.training.first_stage.start import pass_through
from models.training.loop.trainer import Progress
from tests.training import write_balls


def tiny(folder: Path, **changes: Any) -> CompressionStudy:
    """A study of a few steps."""
    fields: dict[str, Any] = dict(
        out=folder / "study",
        data={"folder": folder / "data", "size": 32},
        factors=(1, 8),
        first_stage={"steps": 3, "batch": 2, "width": 8, "optimizer": {"learning_rate": 1e-3, "warmup": 1}},
        diffusion={
            "steps": 4,
            "batch": 2,
            "unet": {"channels": (8, 16), "heads": 2, "norm_groups": 4, "attention": (1,)},
            "optimizer": {"learning_rate": 1e-3, "warmup": 1},
        },
        measures=2,
        pictures=6,
        sample_steps=2,
        throughput_steps=(1, 2),
        classifier_steps=3,
    )
    return CompressionStudy.model_validate(fields | changes)


def test_a_study_goes_on_where_it_was_stopped_and_measures_every_factor(tmp_path: Path) -> None:
    write_balls(tmp_path / "data")
    config, calls = tiny(tmp_path), 0

    def soon() -> bool:
        nonlocal calls
        calls += 1
        return calls >= 8  # three steps of the classifier, three of the first stage, one of the UNet, and then

    assert not study(config, "cpu", report=lambda _: None, stop=soon)
    assert study(config, "cpu", report=lambda _: None, stop=lambda: False)
    told = json.loads((config.out / RESULT).read_text("utf-8"))
    assert [one["factor"] for one in told["factors"]] == [1, 8]
    assert [one["latent"] for one in told["factors"]] == [[3, 32, 32], [4, 4, 4]]
    for one in told["factors"]:
        assert list(one["by_steps"]) == ["2", "4"]
        assert list(one["by_sampling"]) == ["1", "2"]
        assert all(speed > 0 for speed, _ in one["by_sampling"].values())
    sizes = [one["unet_parameters"] for one in told["factors"]]
    assert max(sizes) < 1.05 * min(sizes)
    assert told["network"].startswith("small classifier of data")
    with Image.open(config.out / PLOT) as drawn:
        assert drawn.size[0] > 500
    before = (config.out / "f8" / "measured.json").stat().st_mtime_ns
    assert study(config, "cpu", report=lambda _: None, stop=lambda: False)
    assert (config.out / "f8" / "measured.json").stat().st_mtime_ns == before
    steps = list[Progress]()
    with pytest.raises(ConfigurationError, match="measured by another configuration"):
        study(tiny(tmp_path, pictures=12, classifier_steps=4), "cpu", report=steps.append, stop=lambda: False)
    assert not steps  # nothing was computed


def test_what_a_later_run_would_stop_at_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    data = {"folder": write_balls(tmp_path / "data"), "size": 32}
    for changes, named in (
        ({"data": data | {"flip": True}}, r"the runs of factor 1: .*data\.flip is True; cache\.variants is 1"),
        ({"data": data | {"folder": write_balls(tmp_path / "few", count=4)}}, "4 pictures are compared with 6"),
    ):
        with pytest.raises(ConfigurationError, match=named):
            study(tiny(tmp_path, **changes), "cpu", report=lambda _: None, stop=lambda: True)
        assert not (tmp_path / "study").exists()


def test_a_study_stops_and_tells_how_far_it_is_while_its_classifier_is_trained(tmp_path: Path) -> None:
    write_balls(tmp_path / "data")
    config, told = tiny(tmp_path), list[Progress]()
    assert not study(config, "cpu", report=told.append, stop=lambda: True)
    assert [(one.step, one.steps) for one in told] == [(1, 3)]
    assert not list(config.out.glob("*"))


def test_every_factor_has_its_latent_and_starts(tmp_path: Path) -> None:
    for factor, channels in CHANNELS.items():
        shape = first_stage_run(tiny(tmp_path, data={"folder": tmp_path, "size": 64}), factor).autoencoder.network()
        assert (shape.factor, shape.embed_dim) == (factor, channels)
        pass_through(Autoencoder(shape))


def test_a_study_that_doesnt_fit_is_refused_by_key(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    for changes, named in (
        ({"factors": (1, 32)}, "data.size is 32; it must be a multiple of 64"),
        ({"measures": 9}, "measures is 9; diffusion.steps is 4"),
        ({"factors": (2, 2)}, "each must be there once"),
        ({"throughput_steps": (0,)}, "from 1 to 1000, the timesteps; one is 0"),
    ):
        write_config(tiny(tmp_path).model_copy(update=changes), file)
        with pytest.raises(ConfigurationError, match=named):
            read_config(file, CompressionStudy)
