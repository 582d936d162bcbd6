"""A run of LoRA fine-tuning, from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

import torch

from core.errors import ConfigurationError
from models.checkpoints.load import load
from models.networks.conditioning import TextEncoder
from models.pipeline.denoiser import Denoiser
from models.pipeline.pipeline import LatentDiffusion
from models.training.configs.diffusion import LoraRun
from models.training.data.folder import Folder, read_folder, split_held_out
from models.training.diffusion.model import check_halved, weights_digest
from models.training.diffusion.prepare import prepare
from models.training.diffusion.stage import NETWORK, DiffusionTraining
from models.training.loop.processes import Processes, join
from models.training.loop.trainer import Report, Stop, begun, train
from models.training.lora.products import Products
from models.training.lora.write import write_lora

TRAINED = (None, "mask-latent")  # what may be concatenated to z_t


class LoraTraining(DiffusionTraining):
    """The same objective; what learns are the products."""

    run: LoraRun
    compiles = False  # the hooks that add the products would part the network into dozens of pieces

    @property
    def products(self) -> Products:
        """The averaged products."""
        average = self.players[NETWORK].average
        assert isinstance(average, Products)
        return average

    @cached_property
    def inputs(self) -> Mapping[str, str]:
        return {**super().inputs, "model": weights_digest(self.samples.model.unet.state_dict())}

    @property
    def averaged(self) -> LatentDiffusion:
        model = self.samples.model
        unet = self.products.merged(model.unet, "unet")
        text = model.conditioner
        if self.run.text and text is not None:
            text = self.products.merged(text, "text")
        return replace(model, denoiser=Denoiser(unet, model.device, torch.float32), conditioner=text)

    def save(self) -> None:
        write_lora(self.run, self.products)


def run_lora(run: LoraRun, device: str, *, report: Report, stop: Stop) -> bool:
    """Train, or go on training, a LoRA of a text model. Returns whether the run is done.

    Raises:
        ConfigurationError: naming what of configuration, data or machine is wrong.
        CheckpointError: the model doesn't read.
    """
    folder = split_held_out(read_folder(run.data.folder, captions=True), run.data.held_out)[0]
    processes, place = join(device)
    with begun(run, processes):
        stage = _stage(run, folder, processes, place, report, stop)
        return stage is not None and train(run, stage, processes, report=report, stop=stop)


def _text_tower(run: LoraRun, model: LatentDiffusion) -> TextEncoder:
    """Return what reads the captions.

    Raises:
        ConfigurationError: training gives the model less than what it reads.
    """
    text, config = model.conditioner, model.config
    if not isinstance(text, TextEncoder) or len(model.tokenizers) != 1 or config.unet.added_dim is not None:
        detail = f"{run.model}: a LoRA is trained of a model with one text tower; SDXL's two are not trained yet"
        raise ConfigurationError(detail, field="model", value=str(run.model))
    if config.concat not in TRAINED or config.unet.guidance_dim is not None:
        detail = f"{run.model}: reads more than a text and a mask (a depth, a picture, a noise level or a guidance "
        detail += "scale); a LoRA of it isn't trained"
        raise ConfigurationError(detail, field="model", value=str(run.model))
    return text


def _stage(
    run: LoraRun, folder: Folder, processes: Processes, device: torch.device, report: Report, stop: Stop
) -> LoraTraining | None:
    """Make what the loop trains; None if it was stopped while it encoded."""
    model = load(run.model, str(device))
    text = _text_tower(run, model)
    check_halved(run.data.size, model.latent_factor, len(model.config.unet.channels))
    prepared = prepare(run, folder, model, None if run.text else text, processes, report, stop)
    if prepared is None:
        return None
    samples, shown = prepared
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        products = Products(model, run).to(device)
    return LoraTraining(run, products, text, samples, shown, processes, device)
