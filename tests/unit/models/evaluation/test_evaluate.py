"""Whole evaluations of tiny checkpoints: every part that they can do, each figure with its network."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from contract.card import CARD
from core.errors import CheckpointError, ConfigurationError
from models.checkpoints.load import load
from models.evaluation.evaluate import REPORT, Evaluation, _subject, class_numbers, evaluate
from models.evaluation.figures import Figure
from models.evaluation.parts import parts_of, reconstruction
from models.networks.conditioning import ClassConfig
from models.pipeline.config import IMAGENET
from models.training.diffusion.show import Sampling, Shown, sampled
from models.training.loop.trainer import Progress
from tests.tiny import configs, write_model, write_tiny
from tests.training import autoencoder_run, ldm_run, train, upscaler_run, write_balls

SETS = {"Fréchet distance", "kernel distance", "precision", "recall"}
PAIRS = {"PSNR (dB)", "SSIM", "perceptual distance"}
NEAR_NOISE = {f"error at timestep 950, {text}" for text in ("with the text", "without")} | {"explained by the text"}
INSIDE = {"PSNR (dB) inside masks", "SSIM inside masks", "perceptual distance"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an upscaler and an inpainting model of text, each trained for a step or two."""
    folder = tmp_path_factory.mktemp("evaluated")
    write_balls(folder / "data", count=24)
    condition = {"kind": "text", "width": 32, "layers": 1, "heads": 2, "window": 8, "trained": True}
    train(autoencoder_run(folder, steps=20, save_every=20))
    train(ldm_run(folder, steps=2, condition=condition, concat="mask-latent", save_every=2))
    train(upscaler_run(folder, steps=2, save_every=2))
    return folder


def evaluation(folder: Path, run: str) -> Evaluation:
    return Evaluation(
        folder / run / "checkpoint",
        folder / "data",
        folder / "eval",
        limit=6,
        held_out=0.5,
        train_steps=4,
        steps=2,
        guidance_scale=1.0,
    )


def by_part(figures: list[Figure]) -> dict[str, set[str]]:
    """The measures of each part."""
    parts: dict[str, set[str]] = {}
    for figure in figures:
        parts.setdefault(figure.part, set()).add(figure.name)
    return parts


def test_a_model_of_text_and_masks_is_measured_in_all_that_it_does(trained: Path, tmp_path: Path) -> None:
    told, shown = replace(evaluation(trained, "ldm"), out=tmp_path), list[Progress]()
    figures = evaluate(told, "cpu", shown.append)
    small = [one.what for one in shown if not one.what.startswith("measured")]
    assert list(dict.fromkeys(small)) == ["features", "prompt retrieval"]
    assert len(small) == 2 * told.train_steps
    found = by_part(figures)
    retrieved = {f"prompt retrieval, first{more}" for more in ("", " 5", ", by chance")}
    assert found == {
        "training pictures": SETS | retrieved,
        "reconstruction": PAIRS | SETS,
        "samples": SETS | retrieved,
        "near noise, training pictures": NEAR_NOISE,
        "near noise, held-out pictures": NEAR_NOISE,
        **{f"inpainting, {kind} masks": INSIDE | SETS for kind in ("thin", "medium", "thick")},
    }
    for figure in figures:
        without_network = figure.name.startswith(("PSNR", "SSIM")) or figure.name in NEAR_NOISE
        assert (figure.network is None) is without_network
        assert "FID" not in figure.name
    written = json.loads((tmp_path / "ldm" / REPORT).read_text("utf-8"))
    assert [Figure(**told) for told in written["figures"]] == figures
    assert written["steps"] == 2
    assert (tmp_path / "ldm" / "inpainting-thin-masks.png").is_file()


def test_the_same_seed_gives_the_same_figures(trained: Path) -> None:
    """An upscaler stands beside bicubic enlargement; the small network is read, not trained again."""
    told = evaluation(trained, "up")
    first = evaluate(told, "cpu", lambda _: None)
    assert list(by_part(first)) == [
        "training pictures",
        "reconstruction",
        "×4 super-resolution",
        "×4 bicubic",
    ]
    assert evaluate(told, "cpu", lambda _: None) == first
    bicubic = {f.name: f.value for f in first if f.part == "×4 bicubic"}
    assert bicubic["PSNR (dB)"] > 15


@pytest.mark.parametrize("run", ["ldm", "up"])
def test_sets_are_kept_as_bytes_and_what_is_no_number_is_refused(trained: Path, run: str) -> None:
    subject = _subject(evaluation(trained, run), torch.device("cpu"), lambda _: None)
    assert {x.dtype for x in (subject.real, *(part.pictures for part in parts_of(subject)))} == {torch.uint8}
    torch.nn.init.constant_(subject.model.first_stage.decoder.conv_out.weight, float("nan"))
    with pytest.raises(CheckpointError, match=r"draws NaN or infinite pixels"):
        reconstruction(subject)


def test_reports_of_two_checkpoints_stay_side_by_side(trained: Path, tmp_path: Path) -> None:
    """By their ids; of two that share one the second is refused before anything is measured."""
    told = replace(evaluation(trained, "up"), out=tmp_path / "eval")
    shutil.copytree(told.model, tmp_path / "other")
    card = tmp_path / "other" / CARD
    card.write_text(json.dumps(json.loads(card.read_text("utf-8")) | {"id": "other"}), "utf-8")
    for model in (told.model, told.model, tmp_path / "other"):
        evaluate(replace(told, model=model), "cpu", lambda _: None)
    reports = {name: json.loads((told.out / name / REPORT).read_text("utf-8")) for name in ("up", "other")}
    assert [report["model"] for report in reports.values()] == [str(told.model), str(tmp_path / "other")]
    shutil.copytree(told.model, tmp_path / "again")
    with pytest.raises(
        ConfigurationError, match=r"report\.json: tells of .*up/checkpoint, which has the id of .*again"
    ):
        evaluate(replace(told, model=tmp_path / "again"), "cpu", lambda _: None)


def test_what_cant_be_measured_is_said_first(trained: Path) -> None:
    told = evaluation(trained, "ldm")
    with pytest.raises(ConfigurationError, match=r"held_out is 0\.001; that leaves 0 of 24 pictures"):
        evaluate(replace(told, held_out=0.001), "cpu", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"4 pictures are compared with .* distances need 5"):
        evaluate(replace(told, limit=4, out=trained / "few"), "cpu", lambda _: None)
    assert not (trained / "few").exists()  # which keeps the small networks
    with pytest.raises(ConfigurationError, match="no such folder"):
        evaluate(replace(told, data=trained / "none"), "cpu", lambda _: None)
    with pytest.raises(ConfigurationError, match="its grids would be pictures of the data"):
        evaluate(replace(told, data=trained / "ldm", out=trained / "ldm" / "eval"), "cpu", lambda _: None)
    with pytest.raises(ConfigurationError, match="device is 'gpu'"):
        evaluate(told, "gpu", lambda _: None)


def test_a_layout_model_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    write_tiny("layout", tmp_path / "boxes" / "checkpoint")
    with pytest.raises(ConfigurationError, match="reads boxes; eval can't measure it"):
        evaluate(evaluation(tmp_path, "boxes"), "cpu", lambda _: None)


def test_labels_are_the_model_s_by_name_whatever_their_order(trained: Path, tmp_path: Path) -> None:
    """The card says which number is whose, in any case; numbers are themselves; a name that it lacks is refused."""
    condition = {"kind": "class", "width": 16}
    train(ldm_run(trained, out=trained / "classes", steps=1, condition=condition, save_every=1))
    model, labels = load(trained / "classes" / "checkpoint"), ("blue", "green", "red")
    told, card = evaluation(trained, "classes"), trained / "classes" / "checkpoint" / CARD
    kept = json.loads(card.read_text("utf-8"))
    assert kept["class_names"] == list(labels)
    for names, numbers in ((["Green", "RED", "Blue"], (2, 0, 1)), (list(labels), (0, 1, 2)), (None, (0, 1, 2))):
        card.write_text(json.dumps(kept | {"class_names": names}), "utf-8")
        assert class_numbers(told, model, labels) == numbers
    card.write_text(json.dumps(kept | {"class_names": ["Green", "RED", "Blue"]}), "utf-8")
    assert class_numbers(told, model, ("2", "red")) == (2, 1)
    assert "samples" in by_part(evaluate(replace(told, out=tmp_path), "cpu", lambda _: None))
    with pytest.raises(ConfigurationError, match="has label 'violet', which is none of the class_names"):
        class_numbers(told, model, ("red", "violet"))
    card.write_text(json.dumps(kept | {"class_names": None}), "utf-8")
    with pytest.raises(ConfigurationError, match=r"has 2 labels; .* knows 3 classes"):
        class_numbers(told, model, ("red", "blue"))


@pytest.mark.parametrize("kind", ["embedded", "added"])
def test_models_without_a_null_class_are_asked_for_their_classes(trained: Path, tmp_path: Path, kind: str) -> None:
    """By an embedder as ImageNet's of CompVis, or added to the time embedding, as diffusers' `num_class_embeds`."""
    config = configs()["label"]
    if kind == "embedded":
        config = replace(configs()["class"], conditioner=ClassConfig(IMAGENET, 16))
    model = load(write_model(config, tmp_path / "model"))
    names = ("red", "green", "blue", *map(str, range(3, model.config.classes or 0)))
    card = tmp_path / "model" / CARD
    card.write_text(json.dumps(json.loads(card.read_text("utf-8")) | {"class_names": names}), "utf-8")
    told = replace(evaluation(trained, "none"), model=tmp_path / "model", out=tmp_path / "eval")
    assert by_part(evaluate(told, "cpu", lambda _: None))["samples"] == SETS
    red, again, blue = (
        sampled(model, Sampling(64, 2, guidance, 0), Shown(1, labels=torch.tensor([label])))
        for label, guidance in ((0, 1.0), (0, 4.0), (2, 1.0))
    )
    assert torch.equal(red, again)  # nothing leads away from nothing
    assert not torch.allclose(red, blue, atol=1e-3)


def test_classes_beside_a_text_or_a_picture_are_refused_before_anything_is_trained(
    trained: Path, tmp_path: Path
) -> None:
    plain, up = configs()["plain"], configs()["bare"]
    text = replace(plain, unet=replace(plain.unet, num_classes=3))
    small = replace(up, unet=replace(up.unet, num_classes=3, in_channels=6), concat="low-res")
    for name, config in (("text", text), ("small", small)):
        told = replace(evaluation(trained, "none"), model=tmp_path / name, out=tmp_path / "eval")
        write_model(config, told.model)
        with pytest.raises(ConfigurationError, match="reads classes beside text or a picture; eval can't measure it"):
            evaluate(told, "cpu", lambda _: None)
    assert not (tmp_path / "eval").exists()


def test_a_guidance_that_nothing_leads_is_refused_before_anything_is_trained(tmp_path: Path, trained: Path) -> None:
    told = replace(evaluation(trained, "none"), model=tmp_path / "bare", out=tmp_path / "eval", guidance_scale=3.0)
    write_model(configs()["bare"], told.model)
    with pytest.raises(ConfigurationError, match=r"guidance_scale is 3\.0; nothing leads .*no null class"):
        evaluate(told, "cpu", lambda _: None)
    assert not told.out.exists()


def test_a_map_with_a_class_that_the_model_lacks_is_named(trained: Path, tmp_path: Path) -> None:
    condition = {"kind": "map", "classes": 4, "channels": 2}
    train(ldm_run(trained, out=trained / "maps", steps=1, condition=condition, save_every=1))
    told = replace(evaluation(trained, "maps"), data=tmp_path / "data", out=tmp_path / "eval")
    shutil.copytree(trained / "data", told.data)
    for file in told.data.glob("*-map.png"):
        Image.new("L", (32, 32), 9).save(file)
    with pytest.raises(ConfigurationError, match="a map has class 9; the model knows 4, from 0 on"):
        evaluate(told, "cpu", lambda _: None)
