"""A run of stage 2, from its configuration: caches first, then the network."""

from __future__ import annotations

import json
from dataclasses import asdict

import torch

from models.networks.conditioning import ConditionerModule
from models.networks.unet import UNet, UNetConfig
from models.training.configs.diffusion import ClassCondition, DiffusionRun, LdmRun, MapCondition, TextCondition
from models.training.data.folder import Folder, read_folder, split_held_out
from models.training.diffusion.model import Condition, Trained, condition_of, first_stage_of, model_config, pipeline
from models.training.diffusion.prepare import prepare
from models.training.diffusion.stage import DiffusionTraining
from models.training.diffusion.start import fresh, take_over
from models.training.diffusion.write import FOLDER as CHECKPOINT
from models.training.loop.processes import Processes, join
from models.training.loop.replacing import recover
from models.training.loop.trainer import Report, Stop, begun, train


def run_diffusion(run: DiffusionRun, device: str, *, report: Report, stop: Stop) -> bool:
    """Train, or go on training, a latent diffusion model or upscaler. Returns whether the run is done.

    Raises:
        ConfigurationError: naming what of configuration, data or machine is wrong.
        CheckpointError: the first stage, or what the run starts from, doesn't read.
    """
    folder = _folder(run)
    processes, place = join(device)
    with begun(run, processes):
        if processes.first:
            recover(run.out / CHECKPOINT)
        stage = _stage(run, folder, processes, place, report, stop)
        return stage is not None and train(run, stage, processes, report=report, stop=stop)


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
    run: DiffusionRun, folder: Folder, processes: Processes, device: torch.device, report: Report, stop: Stop
) -> DiffusionTraining | None:
    """Make what the loop trains; None if it was stopped while it encoded."""
    first, condition = first_stage_of(run.first_stage), condition_of(run, folder)
    config = model_config(run, first, condition)
    unet, conditioner = _networks(run, config.unet, condition, device)
    model = pipeline(config, unet, first.network(str(device)), conditioner, condition.tokenizers, device)
    frozen = None if condition.trained else conditioner
    prepared = prepare(run, folder, model, frozen, processes, report, stop)
    if prepared is None:
        return None
    samples, shown = prepared
    module = Trained(unet, conditioner if condition.trained else None)
    return DiffusionTraining(run, module, frozen, samples, shown, processes, device)


def _networks(
    run: DiffusionRun, shape: UNetConfig, condition: Condition, device: torch.device
) -> tuple[UNet, ConditionerModule | None]:
    """Make UNet and conditioner with their first weights, a function of the run's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        unet = fresh(UNet(shape))
        conditioner = condition.network(device)
    if run.start_from is not None:
        taken = take_over(unet, conditioner if condition.state is None else None, run, run.start_from)
        (run.out / "start.json").write_text(json.dumps(asdict(taken), indent=2), "utf-8")
    return _channels_last(unet.to(device)).train(), conditioner


def _channels_last(network: UNet) -> UNet:
    """Lay the kernels out as convolutions are fastest."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network
