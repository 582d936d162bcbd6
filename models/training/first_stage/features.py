"""The feature network of a run: LPIPS where its weights are given, else a classifier trained on the data set itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.features.classifier import Classifier, ClassifierConfig, load_classifier, save_classifier
from models.features.network import FeatureNetwork
from models.features.vgg import load_lpips
from models.training.configs.autoencoder import AutoencoderRun, FeatureConfig
from models.training.configs.base import DataConfig
from models.training.data.folder import Folder
from models.training.data.loader import centred
from models.training.data.pictures import draw
from models.training.loop.draws import generator
from models.training.loop.processes import Processes
from models.training.loop.trainer import Progress, Report, Stop

FILE = "features.safetensors"  # of a run
RATE = 1e-3
MEMORY = 20  # steps over which the accuracy in the name is averaged


def feature_network(config: AutoencoderRun, device: torch.device) -> FeatureNetwork | None:
    """Return the network of the perceptual loss, whose classifier is trained; None where that loss weighs nothing."""
    given = config.features
    if not config.losses.perceptual:
        return None
    if given.vgg is not None and given.lpips is not None:
        return load_lpips(given.vgg, given.lpips).to(device)
    return load_classifier(config.out / FILE).to(device)


def prepare_features(
    config: AutoencoderRun, folder: Folder, processes: Processes, device: torch.device, report: Report, stop: Stop
) -> bool:
    """Train the classifier of a run whose perceptual loss needs one, once. Returns False if `stop` said so before.

    Nothing of it is kept then: it takes minutes.
    """
    given, done = config.features, True
    if processes.first and config.losses.perceptual and given.vgg is None:
        train = partial(train_classifier, given, config.data, config.seed, folder, device, report, stop)
        done = trained_once(config.out / FILE, train)
    return not processes.any(not done)


def trained_once(file: Path, train: Callable[[], Classifier | None]) -> bool:
    """Write what `train` makes to `file`, unless one is there. Returns False if it stopped: nothing is kept then."""
    made = None if file.is_file() else train()
    if made is not None:
        _write(made, file)
    return file.is_file()


def train_classifier(
    config: FeatureConfig,
    data: DataConfig,
    seed: int,
    folder: Folder,
    device: torch.device,
    report: Report,
    stop: Stop,
) -> Classifier | None:
    """Train a classifier of the pictures' labels; where these tell nothing apart each picture is a class of its own.

    Returns None if `stop` said so before its last step.
    """
    labels = _labels(folder)
    shape = ClassifierConfig(max(labels) + 1, config.width, trained_on=folder.path.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier(shape).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), RATE)
    accuracy = 0.0
    for step in range(config.steps):
        x, y = _batch(config, data, generator(seed, "classify", step), folder, labels)
        logits = network.logits(x.to(device))
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits, y.to(device)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        right = float((logits.argmax(1).cpu() == y).float().mean())
        accuracy += (right - accuracy) / min(step + 1, MEMORY)
        report(Progress(step + 1, config.steps, {}, "features"))
        if stop() and step + 1 < config.steps:
            return None
    told = f"{folder.path.name} ({shape.classes} classes, {config.steps} steps, {accuracy:.0%} right)"
    named = Classifier(replace(shape, trained_on=told))
    named.load_state_dict(network.state_dict())
    return named.eval().requires_grad_(False)


def _labels(folder: Folder) -> list[int]:
    """Give each picture its class: its label, or itself where labels are missing or all the same."""
    if all(item.label is not None for item in folder.items) and len({item.label for item in folder.items}) > 1:
        return [folder.label(i) for i in range(len(folder.items))]
    return list(range(len(folder.items)))


def _batch(
    config: FeatureConfig, data: DataConfig, chosen: np.random.Generator, folder: Folder, labels: list[int]
) -> tuple[Tensor, Tensor]:
    indices = [int(i) for i in chosen.integers(len(folder.items), size=config.batch)]
    pixels = [draw(folder, index, data, chosen).pixels for index in indices]
    x = torch.stack([torch.from_numpy(p).movedim(-1, 0) for p in pixels])
    return centred(x), torch.tensor([labels[index] for index in indices])


def _write(classifier: Classifier, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}")
    save_classifier(classifier, unfinished)
    unfinished.replace(file)
