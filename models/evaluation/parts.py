"""What is measured of a checkpoint: its first stage, its samples, what it puts into masks, what it enlarges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from core.errors import CheckpointError, ConfigurationError
from models.evaluation.distributions import distances, precision_recall
from models.evaluation.figures import Figure, figures_of
from models.evaluation.masks import KINDS, draw_masks
from models.evaluation.near_noise import near_noise
from models.evaluation.networks import Embedder, Networks
from models.evaluation.paired import distance_name, paired
from models.evaluation.retrieval import ContrastiveModel, contrastive_name, retrieval
from models.features.network import FeatureNetwork
from models.networks.conditioning import RescalerConfig
from models.pipeline.pipeline import LatentDiffusion
from models.training.configs.base import DataConfig
from models.training.data.folder import Folder
from models.training.data.loader import as_bytes, centred, fixed_bytes, spread
from models.training.data.pictures import draw
from models.training.diffusion.prepare import low_res
from models.training.diffusion.show import AT_ONCE, Sampling, Shown, sampled_parts
from models.training.loop.draws import generator


@dataclass(frozen=True, slots=True)
class Subject:
    """A checkpoint, the pictures that it is measured on (b 3 H W, uint8), and what measures it."""

    model: LatentDiffusion
    training: Folder
    held_out: Folder
    real: Tensor  # of held_out
    class_numbers: tuple[int, ...]  # the model's, of the folders' classes
    data: DataConfig
    sampling: Sampling
    networks: Networks
    contrastive: ContrastiveModel | None  # of the training split; none where nothing is said of pictures
    small_steps: int  # that the small networks were trained


@dataclass(frozen=True, slots=True)
class Part:
    """One part's figures, and its pictures b 3 H W, uint8, to be looked at."""

    name: str
    figures: list[Figure]
    pictures: Tensor


def parts_of(subject: Subject) -> Iterator[Part]:
    """Measure, one after another, what the checkpoint can do."""
    yield training_pictures(subject)
    yield reconstruction(subject)
    concat = subject.model.config.concat
    if concat == "low-res":
        yield from enlarged(subject)
        return
    if concat in ("source", "depth"):  # the held-out pictures have neither what was told nor a depth
        return
    yield samples(subject)
    if subject.model.tokenizers:
        yield from near_noise_of(subject)
    if concat in ("mask-latent", "latent-mask"):
        for kind in KINDS:
            yield inpainted(subject, kind)


def training_pictures(subject: Subject) -> Part:
    """Measure the data's own training pictures as if they were samples: what the distances are at best."""
    real = fixed_bytes(subject.training, subject.data, subject.sampling.seed, len(subject.real))
    return Part("training pictures", _sets(subject, "training pictures", real), real)


@torch.no_grad()
def reconstruction(subject: Subject) -> Part:
    """Measure the first stage on held-out pictures."""
    model = subject.model
    made = _kept(model, (model.decode(model.encode_images(centred(x))) for x in _pieces(subject.real)))
    figures = _pairs(subject, "reconstruction", made) + _sets(subject, "reconstruction", made)
    return Part("reconstruction", figures, made)


def samples(subject: Subject) -> Part:
    """Measure samples: of prompts, labels or maps of the data, or of nothing, against held-out pictures."""
    shown = _asked(subject)
    made = _kept(subject.model, sampled_parts(subject.model, subject.sampling, shown))
    figures = _sets(subject, "samples", made)
    if shown.prompts is not None and subject.contrastive is not None:
        figures += _retrieved(subject, subject.contrastive, made, shown.prompts)
    return Part("samples", figures, made)


def near_noise_of(subject: Subject) -> Iterator[Part]:
    """Measure what texts tell near noise: of training pictures, which were learnt, and of held-out ones."""
    for which, folder in (("training", subject.training), ("held-out", subject.held_out)):
        pictures = fixed_bytes(folder, subject.data, subject.sampling.seed, len(subject.real))
        prompts = [folder.items[i].captions[0] for i in spread(len(folder.items), len(subject.real))]
        name = f"near noise, {which} pictures"
        figures, predicted = near_noise(subject.model, name, pictures, prompts, subject.sampling.seed)
        yield Part(name, figures, predicted)


def inpainted(subject: Subject, kind: str) -> Part:
    """Measure what is painted into masks of held-out pictures: pixels inside them, distances of whole pictures."""
    model, real = subject.model, subject.real
    masks = draw_masks(kind, real.shape[-1], len(real), subject.sampling.seed)
    holes = zip(_pieces(real), _pieces(masks), strict=True)
    with torch.no_grad():
        concat = torch.cat([model.inpaint_concat(centred(x), m).cpu() for x, m in holes])
    painted = sampled_parts(model, subject.sampling, _told(subject, concat.to(model.device)))
    pieces = zip(_pieces(real), _pieces(masks), painted, strict=True)
    made = _kept(model, (centred(x) * (1 - m) + inside * m for x, m, inside in pieces))
    name = f"inpainting, {kind} masks"
    return Part(name, _pairs(subject, name, made, masks) + _sets(subject, name, made), made)


def enlarged(subject: Subject) -> Iterator[Part]:
    """Measure super-resolution of reduced held-out pictures, and bicubic enlargement of the same ones."""
    model, real, factor = subject.model, subject.real, subject.model.latent_factor
    small = torch.cat([low_res(centred(x), factor) for x in _pieces(real)])
    made = sampled_parts(model, subject.sampling, Shown(len(real), concat=model.low_res_concat(small)))
    bicubic = (F.interpolate(x, real.shape[2:], mode="bicubic") for x in _pieces(small))
    for name, pieces in ((f"×{factor} super-resolution", made), (f"×{factor} bicubic", bicubic)):
        pictures = _kept(model, pieces)
        yield Part(name, _pairs(subject, name, pictures) + _sets(subject, name, pictures), pictures)


def _asked(subject: Subject) -> Shown:
    """Choose what is sampled: captions of training pictures, that differ; else conditions of held-out pictures."""
    model, count = subject.model, len(subject.real)
    concat = None
    if model.config.concat in ("mask-latent", "latent-mask"):
        side = subject.sampling.size // model.latent_factor
        concat = model.blank_concat(side, side).expand(count, -1, -1, -1)
    if not model.tokenizers:
        return _told(subject, concat)
    different = list(dict.fromkeys(item.captions[0] for item in subject.training.items))
    chosen = spread(len(different), count)  # said again where there are too few
    return Shown(count, tuple(different[chosen[i % len(chosen)]] for i in range(count)), concat=concat)


def _told(subject: Subject, concat: Tensor | None) -> Shown:
    """Return what is known of the held-out pictures themselves, as the model reads it."""
    model, held, count = subject.model, subject.held_out, len(subject.real)
    chosen = spread(len(held.items), count)
    prompts = labels = maps = None
    if model.tokenizers:
        prompts = tuple(held.items[i].captions[0] for i in chosen)
    if model.config.classes is not None:
        labels = torch.tensor([subject.class_numbers[held.label(i)] for i in chosen])
    if model.config.concat == "map":
        drawn = [draw(held, i, subject.data, generator(subject.sampling.seed, "fixed", i)).map for i in chosen]
        maps = torch.stack([torch.from_numpy(m) for m in drawn if m is not None])
        _check_maps(maps, model, held)
    return Shown(count, prompts, labels, concat, maps)


def _check_maps(maps: Tensor, model: LatentDiffusion, held: Folder) -> None:
    conditioner = model.config.conditioner
    assert isinstance(conditioner, RescalerConfig)
    if int(maps.max()) >= conditioner.in_channels:
        detail = f"{held.path}: a map has class {int(maps.max())}; the model knows {conditioner.in_channels}, from 0 on"
        raise ConfigurationError(detail, field="data", value=int(maps.max()), bound=conditioner.in_channels - 1)


def _retrieved(subject: Subject, contrastive: ContrastiveModel, made: Tensor, prompts: Sequence[str]) -> list[Figure]:
    """Measure samples, and the data's pictures with the same captions, which is what can be reached."""
    name = contrastive_name(subject.training, subject.small_steps)
    captions = [item.captions[0] for item in subject.training.items]
    items = tuple(subject.training.items[captions.index(prompt)] for prompt in prompts)
    theirs = Folder(subject.training.path, items, subject.training.classes, "")
    real = fixed_bytes(theirs, subject.data, subject.sampling.seed, len(items))
    return figures_of("samples", retrieval(contrastive, made, prompts), len(made), name) + figures_of(
        "training pictures", retrieval(contrastive, real, prompts), len(real), name
    )


def _pairs(subject: Subject, part: str, made: Tensor, mask: Tensor | None = None) -> list[Figure]:
    return pair_figures(part, made, subject.real, subject.networks.pairs, mask)


def pair_figures(
    part: str, made: Tensor, real: Tensor, network: FeatureNetwork, mask: Tensor | None = None
) -> list[Figure]:
    """Measure pictures against what each should be."""
    values = paired(made, real, network, mask)
    named = distance_name(network)
    where = "" if mask is None else " inside masks"
    return [
        Figure(part, name if name == named else name + where, value, len(made), network.name if name == named else None)
        for name, value in values.items()
    ]


def _sets(subject: Subject, part: str, made: Tensor) -> list[Figure]:
    return set_figures(part, made, subject.real, subject.networks.sets, subject.sampling.seed)


def set_figures(part: str, made: Tensor, real: Tensor, network: Embedder, seed: int) -> list[Figure]:
    """Measure pictures against others as sets."""
    a, b = network(made), network(real)
    frechet, kernel = distances(a, b, seed)
    precision, recall = precision_recall(a, b)
    values = {network.frechet: frechet, network.kernel: kernel, "precision": precision, "recall": recall}
    return figures_of(part, values, len(made), network.name)


def _kept(model: LatentDiffusion, pieces: Iterable[Tensor]) -> Tensor:
    """Keep pictures b 3 H W, about [−1, 1], as files would, uint8 on the CPU: floats of a set take four times that.

    Raises:
        CheckpointError: some are no numbers, which uint8 wouldn't show.
    """
    kept = []
    for piece in pieces:
        if not bool(piece.isfinite().all()):
            raise CheckpointError(f"{model.id}: draws NaN or infinite pixels; there is nothing to measure")
        kept.append(as_bytes(piece).cpu())
    return torch.cat(kept)


def _pieces(x: Tensor) -> tuple[Tensor, ...]:
    return torch.split(x, AT_ONCE)
