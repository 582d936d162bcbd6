"""The networks by which pictures are compared: published ones whose weights are given, else small ones of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from models.features.classifier import load_classifier
from models.features.inception import load_inception
from models.features.network import FeatureNetwork
from models.features.vgg import load_lpips
from models.training.configs.autoencoder import FeatureConfig
from models.training.configs.base import DataConfig
from models.training.data.folder import Folder
from models.training.data.loader import floats
from models.training.first_stage.features import train_classifier, trained_once
from models.training.loop.trainer import Report, Stop

SIDE = 64  # pixels at which the small networks see whole pictures
WIDTH = 16  # of their first level
BATCH = 32
PART = 16  # pictures at a time
ZOOM = 0.8  # of the pictures they are trained on, so that places and sizes matter less


@dataclass(frozen=True, slots=True)
class Weights:
    """Files of published networks: both of LPIPS (torchvision's VGG16 and its heads), FID's Inception."""

    vgg: Path | None = None
    lpips: Path | None = None
    inception: Path | None = None


@dataclass(frozen=True, slots=True)
class Embedder:
    """Pictures b 3 H W, uint8 or in [−1, 1] → one vector each, b d; and what distances of such vectors are called."""

    name: str
    frechet: str
    kernel: str
    embedding: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        return torch.cat([self.embedding(floats(part)).cpu() for part in torch.split(pictures, PART)])


@dataclass(frozen=True, slots=True)
class Networks:
    """What compares pairs of pictures, and what compares sets of them."""

    pairs: FeatureNetwork
    sets: Embedder


@dataclass(frozen=True, slots=True)
class Small:
    """How the small networks of a folder are trained, the folder that keeps them, and who is told how far they are."""

    cache: Path
    seed: int
    steps: int
    device: torch.device
    report: Report

    def file(self, kind: str, folder: Folder) -> Path:
        """Return where a network of a folder is kept."""
        return self.cache / f"{kind}-{folder.fingerprint}-{self.seed}-{self.steps}.safetensors"


def small_data(folder: Folder) -> DataConfig:
    """Return how the small networks see the pictures of a folder."""
    return DataConfig(folder=folder.path, size=SIDE, crop="random", zoom=ZOOM)


def networks_of(weights: Weights, folder: Folder, told: Small, stop: Stop = lambda: False) -> Networks | None:
    """Read the networks that are given; for what is missing train a classifier of `folder`, which is kept.

    Returns None if `stop` said so before that was trained.

    Raises:
        ConfigurationError: FeatureConfig's, or a file of weights is something else.
    """
    given = FeatureConfig(vgg=weights.vgg, lpips=weights.lpips, steps=told.steps, batch=BATCH, width=WIDTH)
    classifier: FeatureNetwork | None = None
    sets: Embedder | None = None
    if weights.inception is not None:
        inception = load_inception(weights.inception).to(told.device)
        sets = Embedder(inception.name, "FID", "KID", lambda x: inception(x.to(told.device)))
    if given.vgg is None or sets is None:
        file, data = told.file("classifier", folder), small_data(folder)
        train = partial(train_classifier, given, data, told.seed, folder, told.device, told.report, stop)
        if not trained_once(file, train):
            return None
        small = load_classifier(file).to(told.device)
        classifier = small
        sets = sets or Embedder(
            f"{small.name}, at {SIDE} px",
            "Fréchet distance",
            "kernel distance",
            lambda x: small.embedding(at_side(x.to(told.device))),
        )
    if given.vgg is not None and given.lpips is not None:
        return Networks(load_lpips(given.vgg, given.lpips).to(told.device), sets)
    assert classifier is not None
    return Networks(classifier, sets)


def at_side(x: Tensor) -> Tensor:
    """Reduce pictures b 3 H W to the side of the small networks."""
    return F.interpolate(x, (SIDE, SIDE), mode="area")
