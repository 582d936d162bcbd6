"""Data, caches and grids of a run on latents: everything that is there before its first step."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.networks.conditioning import ClassConfig, ConditionerModule, TextConfig, TextEncoder
from models.pipeline.pipeline import LatentDiffusion
from models.training.configs.diffusion import LatentRun
from models.training.data.folder import Folder
from models.training.data.loader import centred, eight_bit
from models.training.data.order import order_of
from models.training.diffusion.cache import Cache, Chunk, Encode, cache_of, text_cache
from models.training.diffusion.model import weights_digest
from models.training.diffusion.samples import Samples
from models.training.diffusion.show import Shown
from models.training.loop.processes import Processes
from models.training.loop.trainer import Progress, Report, Stop

SHOWN = 16  # pictures of a grid where no prompts are given


def prepare(
    run: LatentRun,
    folder: Folder,
    model: LatentDiffusion,
    frozen: ConditionerModule | None,
    processes: Processes,
    report: Report,
    stop: Stop,
) -> tuple[Samples, Shown] | None:
    """Encode what isn't encoded yet. Returns the run's samples and what its grids show; None if `stop` said so before.

    frozen: the conditioner, if it isn't trained; texts that it encodes are kept.

    Raises:
        ConfigurationError: a column of weights is missing, a picture can't be read, or the disk has no room.
    """
    order = order_of(folder, run.data, run.seed, run.steps * run.batch)  # before hours of encoding, as it may refuse
    encoding = partial(_caches, run, folder, model, frozen, report)
    made = encoding(stop) if processes.first else None  # the others wait and read
    if processes.any(processes.first and made is None):
        return None
    caches = made or encoding(lambda: False)
    assert caches is not None
    cache, texts = caches
    side = run.data.size // model.latent_factor
    blank = model.blank_concat(side, side).cpu() if model.config.concat == "mask-latent" else None
    samples = Samples(run, folder, cache, order, model, texts, blank)
    return samples, _shown(run, folder, cache, blank, model)


def _caches(
    run: LatentRun,
    folder: Folder,
    model: LatentDiffusion,
    frozen: ConditionerModule | None,
    report: Report,
    stop: Stop,
) -> tuple[Cache, NDArray[Any] | None] | None:
    """Encode what isn't yet."""
    digest = weights_digest(model.first_stage.state_dict())
    identity = json.dumps([digest, model.config.scale_factor, model.config.concat])
    masked = model.config.concat in ("mask-latent", "latent-mask")
    cache = cache_of(run, folder, identity, _encoder(model), _told(report, "latents"), stop, masked=masked)
    texts = None
    if cache is None:
        return None
    if isinstance(frozen, TextEncoder):
        name = weights_digest(frozen.state_dict())

        @torch.inference_mode()
        def encode(prompts: list[str]) -> Tensor:
            return model.encode_prompts(prompts).context

        texts = text_cache(cache, name, encode, _told(report, "texts"), stop)
        if texts is None:
            return None
    return cache, texts


def _told(report: Report, what: str) -> Any:
    return lambda done, total: report(Progress(done, total, {}, what))


def _encoder(model: LatentDiffusion) -> Encode:
    """Return what makes the arrays of the cache: latents, and what is concatenated to z_t."""

    @torch.inference_mode()
    def encode(chunk: Chunk) -> dict[str, Tensor]:
        x = centred(chunk.pictures)
        arrays = {"latent": model.encode_images(x)}
        if model.config.concat == "low-res":
            arrays["concat"] = low_res(x, model.latent_factor)
        elif chunk.maps is not None and model.config.concat == "map":
            arrays["map"] = chunk.maps
        elif chunk.masks is not None:
            arrays["concat"] = model.inpaint_concat(x, chunk.masks.float())
        return arrays

    return encode


def low_res(x: Tensor, factor: int) -> Tensor:
    """Reduce pictures b 3 H W in [−1, 1] by antialiased bicubic, in 8 bits, as SR3's pairs are made."""
    size = (x.shape[2] // factor, x.shape[3] // factor)
    return eight_bit(F.interpolate(x, size, mode="bicubic", antialias=True))


def _shown(run: LatentRun, folder: Folder, cache: Cache, blank: Tensor | None, model: LatentDiffusion) -> Shown:
    """Choose what grids show: the run's prompts, else conditions of pictures spread over the data set."""
    count = len(run.prompts) or min(SHOWN, len(folder.items))
    entries = [(i * len(folder.items) // count) * cache.variants for i in range(count)]
    given = model.config.conditioner
    prompts = labels = concat = None
    if isinstance(given, TextConfig):
        prompts = run.prompts or tuple(cache.texts[next(iter(cache.captions[e]), 0)] for e in entries)
    if isinstance(given, ClassConfig):
        labels = torch.tensor([folder.label(e // cache.variants) for e in entries])
    if blank is not None:
        concat = blank.expand(count, -1, -1, -1)
    elif "concat" in cache.arrays:
        concat = cache.rows("concat", entries)
    maps = cache.rows("map", entries) if "map" in cache.arrays else None
    return Shown(count, prompts, labels, concat, maps)
