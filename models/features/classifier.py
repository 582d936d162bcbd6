"""A small convolutional classifier, trained on a data set itself: features where no published weights are given."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.errors import ConfigurationError
from models.checkpoints.files.weights import read_metadata
from models.features.network import FeatureNetwork

KIND = "latentd classifier"


@dataclass(frozen=True, slots=True)
class ClassifierConfig:
    """Shape of the classifier, and what it was trained on."""

    classes: int
    width: int = 32
    levels: int = 4
    trained_on: str = ""  # data set and accuracy, for its name


class Classifier(FeatureNetwork):
    """Two convolutions a level, each level half as large and twice as wide; the mean of the last is classified."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.name = f"small classifier of {config.trained_on or 'nothing yet'}"
        widths = [3, *(config.width * 2**i for i in range(config.levels))]
        self.levels = nn.ModuleList(_level(a, b) for a, b in pairwise(widths))
        self.head = nn.Linear(widths[-1], config.classes)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for level in self.levels:
            x = level(x if not maps else F.avg_pool2d(x, 2))  # b c h w
            maps.append(x)
        return maps

    def embedding(self, x: Tensor) -> Tensor:
        """Return one vector of each picture, b d: what distributions of pictures are compared by."""
        return self(x)[-1].mean(dim=(2, 3))  # type: ignore[no-any-return]

    def logits(self, x: Tensor) -> Tensor:
        """Return the classes' logits, b k."""
        return self.head(self.embedding(x))  # type: ignore[no-any-return]


def _level(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(4, b), nn.SiLU(), nn.Conv2d(b, b, 3, padding=1), nn.SiLU()
    )


def save_classifier(classifier: Classifier, file: Path) -> None:
    """Write weights and config as one file."""
    told = {"kind": KIND, "config": json.dumps(asdict(classifier.config))}
    save_file({key: value.contiguous() for key, value in classifier.state_dict().items()}, file, told)


def load_classifier(file: Path) -> Classifier:
    """Read what `save_classifier` wrote, for evaluation.

    Raises:
        ConfigurationError: the file is something else.
    """
    told = read_metadata(file)
    if told.get("kind") != KIND:
        raise ConfigurationError(f"{file}: is no {KIND}", field="features", value=str(file))
    with torch.device("meta"):
        classifier = Classifier(ClassifierConfig(**json.loads(told["config"])))
    classifier.load_state_dict(load_file(file), assign=True)
    return classifier.eval().requires_grad_(False)
