"""A run of stage 2, from its configuration: caches first, then the network."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.networks.conditioning import ConditionerModule, TextEncoder
from models.networks.unet import UNet, UNetConfig
from models.pipeline import LatentDiffusion
from models.training.configs.base import write_config
from models.training.configs.diffusion import ClassCondition, DiffusionRun, LdmRun, MapCondition, TextCondition
from models.training.data.folder import Folder, read_folder, split_held_out
from models.training.data.masks import draw_mask
from models.training.data.order import order_of
from models.training.data.pictures import Drawn
from models.training.diffusion.cache import Cache, cache_of, text_cache
from models.training.diffusion.model import (
    Condition,
    Trained,
    condition_of,
    first_stage_of,
    model_config,
    pipeline,
    weights_digest,
)
from models.training.diffusion.samples import Samples
from models.training.diffusion.show import Shown
from models.training.diffusion.stage import DiffusionTraining
from models.training.diffusion.start import fresh, take_over
from models.training.loop.draws import generator
from models.training.loop.processes import Processes, join, leave
from models.training.loop.trainer import Progress, Report, Stop, train

SHOWN = 16  # pictures of a grid where no prompts are given


def run_diffusion(run: DiffusionRun, device: str, *, report: Report, stop: Stop) -> bool:
    """Train, or go on training, a latent diffusion model or upscaler. Returns whether the run is done.

    Raises:
        ConfigurationError: naming what of configuration, data or machine is wrong.
        CheckpointError: the first stage, or what the run starts from, doesn't read.
    """
    folder = _folder(run)
    processes, place = join(device)
    try:
        run.out.mkdir(parents=True, exist_ok=True)
        if processes.first:
            write_config(run, run.out / "config.yaml")
        stage = _stage(run, folder, processes, place, report)
        return train(run, stage, processes, report=report, stop=stop)
    finally:
        leave(processes)


def _folder(run: DiffusionRun) -> Folder:
    given = run.condition if isinstance(run, LdmRun) else None
    whole = read_folder(
        run.data.folder,
        captions=isinstance(given, TextCondition),
        labels=isinstance(given, ClassCondition),
        maps=isinstance(given, MapCondition),
    )
    return split_held_out(whole, run.data.held_out)[0]


def _stage(
    run: DiffusionRun, folder: Folder, processes: Processes, device: torch.device, report: Report
) -> DiffusionTraining:
    first, condition = first_stage_of(run.first_stage), condition_of(run, folder)
    config = model_config(run, first, condition)
    digest = weights_digest(first.state)
    unet, conditioner = _networks(run, config.unet, condition, device)
    model = pipeline(config, unet, first.network(str(device)), conditioner, condition.tokenizers, device)
    frozen = None if condition.trained else conditioner
    cache, texts = _caches(run, folder, model, digest, frozen, processes, report)
    blank = model.blank_concat(*_size(run, model)).cpu() if config.concat == "mask-latent" else None
    order = order_of(folder, run.data, run.seed, run.steps * run.batch)
    samples = Samples(run, folder, cache, order, model, texts, blank)
    module = Trained(unet, conditioner if condition.trained else None)
    return DiffusionTraining(run, module, frozen, samples, _shown(run, folder, cache, blank), processes, device)


def _networks(
    run: DiffusionRun, shape: UNetConfig, condition: Condition, device: torch.device
) -> tuple[UNet, ConditionerModule | None]:
    """Make UNet and conditioner with their first weights, a function of the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        unet = fresh(UNet(shape))
        conditioner = condition.network(device)
    if run.start_from is not None:
        taken = take_over(unet, run.start_from)
        (run.out / "start.json").write_text(json.dumps(asdict(taken), indent=2), "utf-8")
    unet = unet.to(device, memory_format=torch.channels_last).train()
    return unet, conditioner


def _caches(
    run: DiffusionRun,
    folder: Folder,
    model: LatentDiffusion,
    digest: str,
    frozen: ConditionerModule | None,
    processes: Processes,
    report: Report,
) -> tuple[Cache, NDArray[Any] | None]:
    """Encode what isn't yet, in the first process; the others wait and read."""
    if not processes.first:
        processes.wait()
    identity = json.dumps([digest, model.config.scale_factor, model.config.concat])
    encoder = _Encoder(run, model)
    cache = cache_of(run.cache, run.data, run.seed, folder, identity, encoder, _told(report, "latents"))
    texts = None
    if isinstance(frozen, TextEncoder):
        name = weights_digest(frozen.state_dict())

        @torch.inference_mode()
        def encode(prompts: list[str]) -> Tensor:
            return model.encode_prompts(prompts).context

        texts = text_cache(cache, name, encode, _told(report, "texts"))
    if processes.first:
        processes.wait()
    return cache, texts


def _told(report: Report, what: str) -> Any:
    return lambda done, total: report(Progress(done, total, {}, what))


class _Encoder:
    """Pictures → the arrays of the cache: latent, and what is concatenated to z_t."""

    def __init__(self, run: DiffusionRun, model: LatentDiffusion) -> None:
        self.run, self.model = run, model

    @torch.inference_mode()
    def __call__(self, x: Tensor, drawn: list[Drawn], entries: list[int]) -> dict[str, Tensor]:
        arrays = {"latent": self.model.encode_images(x)}
        kind = self.model.config.concat
        if kind == "low-res":
            arrays["concat"] = low_res(x, self.model.latent_factor)
        elif kind == "map":
            arrays["map"] = torch.stack([torch.from_numpy(d.map) for d in drawn if d.map is not None])
        elif kind is not None:
            arrays["concat"] = self.model.inpaint_concat(x, self._masks(drawn, entries))
        return arrays

    def _masks(self, drawn: list[Drawn], entries: list[int]) -> Tensor:
        masks = [
            draw_mask(self.run.data.size, d.box, generator(self.run.seed, "mask", entry))
            for d, entry in zip(drawn, entries, strict=True)
        ]
        return torch.stack([torch.from_numpy(mask) for mask in masks])[:, None].float()


def low_res(x: Tensor, factor: int) -> Tensor:
    """Reduce pictures b 3 H W in [−1, 1] by antialiased bicubic, in 8 bits, as SR3's pairs are made."""
    size = (x.shape[2] // factor, x.shape[3] // factor)
    small = F.interpolate(x, size, mode="bicubic", antialias=True).clamp(-1, 1)
    return ((small + 1) * 127.5).round() / 127.5 - 1


def _size(run: DiffusionRun, model: LatentDiffusion) -> tuple[int, int]:
    side = run.data.size // model.latent_factor
    return side, side


def _shown(run: DiffusionRun, folder: Folder, cache: Cache, blank: Tensor | None) -> Shown:
    """Choose what grids show: the run's prompts, else conditions of pictures spread over the data set."""
    count = len(run.prompts) or min(SHOWN, len(folder.items))
    entries = [(i * len(folder.items) // count) * cache.variants for i in range(count)]
    given = run.condition if isinstance(run, LdmRun) else None
    prompts = labels = concat = None
    if isinstance(given, TextCondition):
        prompts = run.prompts or tuple(cache.texts[next(iter(cache.captions[e]), 0)] for e in entries)
    if isinstance(given, ClassCondition):
        labels = torch.tensor([folder.label(e // cache.variants) for e in entries])
    if blank is not None:
        concat = blank.expand(count, -1, -1, -1)
    elif "concat" in cache.arrays:
        concat = cache.rows("concat", entries)
    maps = cache.rows("map", entries) if "map" in cache.arrays else None
    return Shown(count, prompts, labels, concat, maps)
