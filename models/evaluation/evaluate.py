"""Everything that can be measured of one checkpoint on one folder of pictures, written down as JSON and grids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from contract.card import CARD
from core.errors import ConfigurationError
from models.checkpoints.card import card_folder, checkpoint_id, default_card, id_of, load_as_set
from models.checkpoints.files.weights import read_json
from models.checkpoints.load import load
from models.evaluation.distributions import FEWEST, check_enough
from models.evaluation.figures import Figure, as_data
from models.evaluation.networks import Small, Weights, networks_of
from models.evaluation.parts import Part, Subject, parts_of
from models.evaluation.retrieval import kept_contrastive
from models.networks.conditioning import TextConfig
from models.pipeline.pipeline import LatentDiffusion
from models.training.configs.base import DataConfig
from models.training.data.folder import Folder, check_apart, read_folder, split_held_out
from models.training.data.loader import centred, fixed_bytes
from models.training.diffusion.show import Sampling
from models.training.loop.logbook import grid_of
from models.training.loop.processes import device_of
from models.training.loop.trainer import Progress, Report

REPORT = "report.json"
LATENT = 32  # height and width of latents where no file says
LOOKED_AT = 32  # pictures of a grid


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is measured: `limit` pictures a part; by networks trained `train_steps` steps where none are given."""

    model: Path
    data: Path
    out: Path
    limit: int = 256
    seed: int = 0
    held_out: float = 0.1  # share of the pictures that the small networks don't see
    train_steps: int = 1000
    steps: int | None = None  # None: the card's
    guidance_scale: float | None = None
    weights: Weights = field(default_factory=Weights)


def evaluate(told: Evaluation, device: str, report: Report) -> list[Figure]:
    """Measure a checkpoint; write report.json and a grid of pictures a part to `report_folder`.

    Raises:
        ConfigurationError: naming what of data, weights or checkpoint can't be measured.
        CheckpointError: the checkpoint doesn't read, or what it draws is no number.
    """
    check_apart(told.out, told.data)
    folder = report_folder(told)
    _check_own(folder / REPORT, told.model)
    subject = _subject(told, device_of(device), report)
    folder.mkdir(parents=True, exist_ok=True)
    figures: list[Figure] = []
    for done, part in enumerate(parts_of(subject), 1):
        figures += part.figures
        _show(part, folder)
        report(Progress(done, done, {}, f"measured {part.name}"))
    text = json.dumps(_described(told, subject) | {"figures": as_data(figures)}, indent=2, ensure_ascii=False)
    (folder / REPORT).write_text(text + "\n", "utf-8")
    return figures


def report_folder(told: Evaluation) -> Path:
    """Return where a checkpoint's report is: below `out`, which keeps the networks for others, a folder of its id."""
    return told.out / id_of(checkpoint_id(told.model))


def _check_own(report: Path, model: Path) -> None:
    """Refuse to write over what was measured of another checkpoint."""
    other = str(read_json(report).get("model")) if report.is_file() else str(model)
    if Path(other).resolve() != model.resolve():
        detail = f"{report}: tells of {other}, which has the id of {model}; choose another out"
        raise ConfigurationError(detail, field="out", value=str(model), bound=other)


def _subject(told: Evaluation, device: torch.device, report: Report) -> Subject:
    model = load(told.model, str(device))
    _check(told.model, model)
    _check_guidance(told, model)
    sampling = _sampling(told, model)
    training, held_out = _split(told, model)
    numbers = class_numbers(told, model, training.classes)
    check_enough(training.items, held_out.items[: told.limit])
    data = DataConfig(folder=told.data, size=sampling.size)
    real = fixed_bytes(held_out, data, told.seed, told.limit)
    small = Small(told.out, told.seed, told.train_steps, device, report)
    networks = networks_of(told.weights, training, small)
    assert networks is not None, "nothing stops it"
    contrastive = kept_contrastive(training, small) if model.tokenizers else None
    return Subject(
        model,
        training,
        held_out,
        real,
        numbers,
        data,
        sampling,
        networks,
        contrastive,
        small_steps=told.train_steps,
    )


def _check(path: Path, model: LatentDiffusion) -> None:
    """Refuse networks that read more than what grids give them."""
    config = model.config
    if config.added_numbers or config.unet.guidance_dim is not None or config.low_res_schedule is not None:
        detail = f"{path}: reads sizes, a guidance scale or a noise level beside its condition; eval can't measure it"
        raise ConfigurationError(detail, field="model", value=str(path))
    if config.layout is not None:
        raise ConfigurationError(f"{path}: reads boxes; eval can't measure it", field="model", value=str(path))
    if config.classes is not None and (config.concat is not None or isinstance(config.conditioner, TextConfig)):
        detail = f"{path}: reads classes beside text or a picture; eval can't measure it"
        raise ConfigurationError(detail, field="model", value=str(path))


def _check_guidance(told: Evaluation, model: LatentDiffusion) -> None:
    if told.guidance_scale not in (None, 1.0) and not model.config.guidable:
        detail = f"guidance_scale is {told.guidance_scale}; nothing leads {told.model}, which has no null class"
        raise ConfigurationError(detail, field="guidance_scale", value=told.guidance_scale, bound=1.0)


def _split(told: Evaluation, model: LatentDiffusion) -> tuple[Folder, Folder]:
    config = model.config
    whole = read_folder(
        told.data, captions=bool(model.tokenizers), labels=config.classes is not None, maps=config.concat == "map"
    )
    training, held_out = split_held_out(whole, told.held_out)
    if len(held_out.items) < FEWEST:
        detail = f"held_out is {told.held_out}; that leaves {len(held_out.items)} of {len(whole.items)} pictures in "
        detail += f"{told.data} to measure on, fewer than {FEWEST}"
        raise ConfigurationError(detail, field="held_out", value=told.held_out, bound=FEWEST)
    return training, held_out


def class_numbers(told: Evaluation, model: LatentDiffusion, labels: Sequence[str]) -> tuple[int, ...]:
    """Find the model's class numbers of a folder's labels: by its card's names, or as they are; else in their order.

    Raises:
        ConfigurationError: there are other labels than the model has classes.
    """
    classes, names = model.config.classes, _card(told.model).get("class_names")
    if classes is None:
        return ()
    if names is None and len(labels) != classes:
        detail = f"{told.data}: has {len(labels)} labels; {told.model} knows {classes} classes"
        raise ConfigurationError(detail, field="data", value=len(labels), bound=classes)
    if names is None:
        return tuple(range(classes))
    by_name = {str(name).casefold(): number for number, name in enumerate(names)}
    by_name = {str(number): number for number in range(classes)} | by_name
    unknown = next((label for label in labels if label.casefold() not in by_name), None)
    if unknown is not None:
        detail = f"{told.data}: has label {unknown!r}, which is none of the class_names of {told.model}'s card"
        raise ConfigurationError(detail, field="data", value=unknown)
    return tuple(by_name[label.casefold()] for label in labels)


def _sampling(told: Evaluation, model: LatentDiffusion) -> Sampling:
    defaults = _card(told.model)["defaults"]
    return Sampling(
        (model.config.latent_size or LATENT) * model.latent_factor,
        told.steps or int(defaults["steps"]),
        float(defaults["guidance_scale"] if told.guidance_scale is None else told.guidance_scale),
        told.seed,
    )


def _card(path: Path) -> dict[str, Any]:
    file = card_folder(path) / CARD
    return read_json(file) if file.is_file() else default_card(load_as_set(path), path.name, "")


def _described(told: Evaluation, subject: Subject) -> dict[str, Any]:
    return {
        "model": str(told.model.resolve()),
        "data": str(told.data),
        "pictures": {"training": len(subject.training.items), "held_out": len(subject.held_out.items)},
        "held_out": told.held_out,
        "limit": told.limit,
        "seed": told.seed,
        "size": subject.sampling.size,
        "sampler": "ddim",
        "steps": subject.sampling.steps,
        "guidance_scale": subject.sampling.guidance_scale,
    }


def _show(part: Part, out: Path) -> None:
    name = part.name.replace(", ", "-").replace(" ", "-").replace("×", "x")
    Image.fromarray(grid_of(centred(part.pictures[:LOOKED_AT]))).save(out / f"{name}.png")
