"""The feature network of a run: LPIPS where its weights are given, else a classifier trained on the data set itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from models.features.classifier import Classifier, ClassifierConfig, load_classifier, save_classifier
from models.features.network import FeatureNetwork
from models.features.vgg import load_lpips
from models.training.configs.autoencoder import AutoencoderRun
from models.training.data.folder import Folder
from models.training.data.loader import centred
from models.training.data.pictures import draw
from models.training.loop.draws import generator
from models.training.loop.processes import Processes

FILE = "features.safetensors"  # of a run
RATE = 1e-3
MEMORY = 20  # steps over which the accuracy in the name is averaged


def feature_network(
    config: AutoencoderRun, folder: Folder, processes: Processes, device: torch.device
) -> FeatureNetwork | None:
    """Return the network of the perceptual loss; None where that weighs nothing. A classifier is trained once a run."""
    given, file = config.features, config.out / FILE
    if not config.losses.perceptual:
        return None
    if given.vgg is not None and given.lpips is not None:
        return load_lpips(given.vgg, given.lpips).to(device)
    if processes.first and not file.is_file():
        _write(train_classifier(config, folder, device), file)
    processes.wait()
    return load_classifier(file).to(device)


def train_classifier(config: AutoencoderRun, folder: Folder, device: torch.device) -> Classifier:
    """Train a classifier of the pictures' labels; where they have none each picture is a class of its own."""
    labels = _labels(folder)
    shape = ClassifierConfig(max(labels) + 1, config.features.width, trained_on=folder.path.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = Classifier(shape).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), RATE)
    accuracy = 0.0
    for step in range(config.features.steps):
        x, y = _batch(config, folder, labels, step)
        logits = network.logits(x.to(device))
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits, y.to(device)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        right = float((logits.argmax(1).cpu() == y).float().mean())
        accuracy += (right - accuracy) / min(step + 1, MEMORY)
    told = f"{folder.path.name} ({shape.classes} classes, {config.features.steps} steps, {accuracy:.0%} right)"
    named = Classifier(replace(shape, trained_on=told))
    named.load_state_dict(network.state_dict())
    return named.eval().requires_grad_(False)


def _labels(folder: Folder) -> list[int]:
    if all(item.label is not None for item in folder.items):
        return [folder.label(i) for i in range(len(folder.items))]
    return list(range(len(folder.items)))


def _batch(config: AutoencoderRun, folder: Folder, labels: list[int], step: int) -> tuple[Tensor, Tensor]:
    size, chosen = config.features.batch, generator(config.seed, "classify", step)
    indices = [int(i) for i in chosen.integers(len(folder.items), size=size)]
    pixels = [draw(folder, index, config.data, chosen).pixels for index in indices]
    x = torch.stack([torch.from_numpy(p).movedim(-1, 0) for p in pixels])
    return centred(x), torch.tensor([labels[index] for index in indices])


def _write(classifier: Classifier, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}")
    save_classifier(classifier, unfinished)
    unfinished.replace(file)
