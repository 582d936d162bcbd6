"""Pictures of any methods, a folder each, against the pictures that they should be: one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from core.errors import ConfigurationError
from models.evaluation.distributions import check_enough
from models.evaluation.figures import Figure
from models.evaluation.networks import Networks, Small, Weights, networks_of
from models.evaluation.parts import pair_figures, set_figures
from models.training.data.folder import Folder, read_folder
from models.training.data.pictures import flattened, read_picture
from models.training.loop.processes import device_of
from models.training.loop.trainer import Progress, Report


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared: folders of pictures, with those of `data` that have the same names."""

    methods: tuple[Path, ...]
    data: Path
    cache: Path  # keeps the small network
    limit: int | None = None
    seed: int = 0
    train_steps: int = 1000
    weights: Weights = field(default_factory=Weights)


def compare(told: Comparison, device: str, report: Report) -> list[Figure]:
    """Score every method; its figures' part is its folder's name.

    Without weights the network is a small classifier of `data` itself.

    Raises:
        ConfigurationError: folders have too few or not the same pictures, two have one name, or sizes differ.
    """
    wanted = read_folder(told.data)
    folders = {path.name: read_folder(path) for path in told.methods}
    if len(folders) < len(told.methods):
        raise ConfigurationError("two methods' folders have the same name, which is that of their rows", field="dirs")
    names = _shared(told, wanted, folders)
    check_enough(names, names)
    real = _pictures(wanted, names)
    small = Small(told.cache, told.seed, told.train_steps, device_of(device), report)
    networks = networks_of(told.weights, wanted, small)
    assert networks is not None, "nothing stops it"
    figures: list[Figure] = []
    for done, (name, folder) in enumerate(folders.items(), 1):
        figures += _scored(name, _pictures(folder, names, real.shape[2:]), real, networks, told.seed)
        report(Progress(done, len(folders), {}, name))
    return figures


def _scored(name: str, made: Tensor, real: Tensor, networks: Networks, seed: int) -> list[Figure]:
    figures = pair_figures(name, made, real, networks.pairs)
    return figures + set_figures(name, made, real, networks.sets, seed)


def _shared(told: Comparison, wanted: Folder, folders: dict[str, Folder]) -> list[str]:
    """Return the names, less their endings, of the pictures to score; each method must have all that the first has."""
    there = _files(wanted).keys()
    first = next(iter(folders.values()))
    names = [name for name in _files(first) if name in there][: told.limit]
    if not names:
        raise ConfigurationError(f"{first.path}: none of its pictures has the name of one in {told.data}", field="dirs")
    for folder in folders.values():
        has = _files(folder).keys()
        lacking = [name for name in names if name not in has]
        if lacking:
            detail = f"{folder.path}: lacks {len(lacking)} of {len(names)} pictures, {lacking[0]} first"
            raise ConfigurationError(detail, field="dirs", value=str(folder.path))
    return names


def _files(folder: Folder) -> dict[str, Path]:
    return {item.file.relative_to(folder.path).with_suffix("").as_posix(): item.file for item in folder.items}


def _pictures(folder: Folder, names: Sequence[str], size: Sequence[int] | None = None) -> Tensor:
    """Read pictures as they are, b 3 H W, uint8; all must have one size, that of the real ones."""
    files = _files(folder)
    read = []
    for name in names:
        pixels = np.asarray(flattened(read_picture(files[name])))
        size = size or pixels.shape[:2]
        if tuple(pixels.shape[:2]) != tuple(size):
            found, expected = (f"{width}×{height}" for height, width in (pixels.shape[:2], size))
            raise ConfigurationError(f"{files[name]}: is {found}; {expected} is compared", value=found, bound=expected)
        read.append(torch.from_numpy(rearrange(pixels, "h w c -> c h w").copy()))
    return torch.stack(read)


def table(figures: Sequence[Figure]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headers and rows: a row a method, a column a measure."""
    measures = list(dict.fromkeys(figure.name for figure in figures))
    values = {(figure.part, figure.name): figure.value for figure in figures}
    rows = [
        (part, *(f"{values[part, measure]:.4g}" for measure in measures))
        for part in dict.fromkeys(figure.part for figure in figures)
    ]
    return ("method", *measures), rows
