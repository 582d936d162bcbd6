"""The compression study (paper §4.1): which factor is best at equal steps and parameters, by quality and throughput."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from core.errors import ConfigurationError
from models.checkpoints.load import load
from models.evaluation.compression_plot import plot
from models.evaluation.distributions import check_enough, distances
from models.evaluation.networks import Embedder, Small, Weights, networks_of
from models.evaluation.paired import paired
from models.pipeline.pipeline import LatentDiffusion
from models.training.configs.autoencoder import AutoencoderRun, AutoencoderShape
from models.training.configs.compression import CHANNELS, CompressionStudy
from models.training.configs.diffusion import CacheConfig, LdmRun
from models.training.data.folder import check_apart, read_folder, split_held_out
from models.training.data.loader import eight_bit, fixed_pictures
from models.training.diffusion.run import run_diffusion
from models.training.diffusion.show import Sampling, Shown, sampled
from models.training.diffusion.write import FOLDER
from models.training.first_stage.run import run_autoencoder
from models.training.loop.processes import device_of, join
from models.training.loop.trainer import Progress, Report, Stop

RESULT, PLOT, MEASURED = "study.json", "study.png", "measured.json"
GROUPS = 1  # of norms: levels are narrow
AT_MOST = 8  # times the width of the first level


@dataclass(slots=True)
class Measured:
    """One factor: what its first stage reaches, then quality by training steps, then by sampling steps."""

    factor: int
    latent: tuple[int, ...]  # c h w
    unet_parameters: int
    psnr: float  # of the first stage, on held-out pictures
    by_steps: dict[int, float] = field(default_factory=dict)  # training steps → Fréchet distance
    by_sampling: dict[int, tuple[float, float]] = field(default_factory=dict)  # → pictures a second, Fréchet distance
    study: str = ""  # the configuration that it was measured by


def study(config: CompressionStudy, device: str, *, report: Report, stop: Stop) -> bool:
    """Train and measure every factor, going on from what is there; write study.json and study.png.

    Returns whether it is done.

    Raises:
        ConfigurationError: naming what of configuration or data is wrong.
    """
    processes, place = join(device)
    if processes.count > 1:
        raise ConfigurationError("the compression study runs in one process: its speeds are one device's")
    _check(config)
    training, held_out = split_held_out(read_folder(config.data.folder), config.data.held_out)
    check_enough(range(config.pictures), training.items)
    # The factors compete for what the data looks like; held-out pictures are too few of a small set to tell that.
    real = fixed_pictures(training, config.data, config.seed, max(config.pictures, len(held_out.items)))
    unseen = fixed_pictures(held_out if held_out.items else training, config.data, config.seed, config.pictures)
    small = Small(config.out, config.seed, config.classifier_steps, place, report)
    networks = networks_of(Weights(), training, small, stop)
    if networks is None:
        return False
    found = []
    for factor in config.factors:
        one = _Factor(config, factor, device, real, unseen, networks.sets, report)
        done = one.run(stop)
        if one.file.is_file():
            found.append(one.measured)
        _write(config, found, networks.sets.name)
        if not done:
            return False
    return True


def _check(config: CompressionStudy) -> None:
    """Refuse, before anything is computed, what a factor's runs would stop at."""
    check_apart(config.out, config.data.folder)
    for factor in config.factors:
        try:
            first_stage_run(config, factor)
            diffusion_run(config, factor)
        except ValidationError as error:
            raise ConfigurationError(f"the runs of factor {factor}: {error.errors()[0]['msg']}") from error
        file = config.out / f"f{factor}" / MEASURED
        if file.is_file() and _measured(file).study != _told(config):
            detail = f"{file}: was measured by another configuration; go on with that one or choose another `out`"
            raise ConfigurationError(detail, field="out", value=str(config.out))


def _told(config: CompressionStudy) -> str:
    return config.model_dump_json(exclude={"out": True, "factors": True, "data": {"workers"}})


def _measured(file: Path) -> Measured:
    told: dict[str, Any] = json.loads(file.read_text("utf-8"))
    told["by_steps"] = {int(k): v for k, v in told["by_steps"].items()}
    told["by_sampling"] = {int(k): tuple(v) for k, v in told["by_sampling"].items()}
    return Measured(**told)


def first_stage_run(config: CompressionStudy, factor: int) -> AutoencoderRun:
    """Return the run of a factor's first stage."""
    told = config.first_stage
    levels = factor.bit_length()
    channels = tuple(min(told.width * 2**i, told.width * AT_MOST) for i in range(levels))
    return AutoencoderRun(
        out=config.out / f"f{factor}" / "first",
        steps=told.steps,
        batch=told.batch,
        seed=config.seed,
        data=config.data,
        optimizer=told.optimizer,
        autoencoder=AutoencoderShape(channels=channels, z_channels=CHANNELS[factor], norm_groups=GROUPS),
        losses=told.losses,
        start="pass-through",
        save_every=max(1, told.steps // 4),
        sample_every=told.steps,
    )


def diffusion_run(config: CompressionStudy, factor: int) -> LdmRun:
    """Return the run of a factor's UNet."""
    told, folder = config.diffusion, config.out / f"f{factor}"
    return LdmRun(
        out=folder / "ldm",
        steps=told.steps,
        batch=told.batch,
        seed=config.seed,
        data=config.data,
        optimizer=told.optimizer,
        first_stage=folder / "first" / "first_stage",
        unet=told.unet,
        schedule=told.schedule,
        min_weight=0.05,
        cache=CacheConfig(folder=folder / "cache"),
        save_every=max(1, told.steps // config.measures),
        log_every=1,  # each step is told, so that the run can be stopped where it is measured
        sample_every=told.steps,
        sample_steps=config.sample_steps,
        guidance_scale=1.0,
    )


class _Factor:
    """One factor's runs and what was measured of them, kept beside them."""

    def __init__(
        self,
        config: CompressionStudy,
        factor: int,
        device: str,
        real: Tensor,
        unseen: Tensor,
        network: Embedder,
        report: Report,
    ) -> None:
        self.config, self.factor, self.device, self.network = config, factor, device, network
        self.real, self.unseen = network(real), unseen
        self.report: Report = lambda moment: report(replace(moment, what=f"f = {factor}, {moment.what}"))
        self.file = config.out / f"f{factor}" / MEASURED

    def run(self, stop: Stop) -> bool:
        if not run_autoencoder(first_stage_run(self.config, self.factor), self.device, report=self.report, stop=stop):
            return False
        run = diffusion_run(self.config, self.factor)
        for part in range(1, self.config.measures + 1):
            until = run.steps * part // self.config.measures
            if not self._trained(run, until, stop):
                return False
            self._measure(until)
        return True

    def _trained(self, run: LdmRun, until: int, stop: Stop) -> bool:
        """Train until a step. Returns whether it was reached, rather than stopped before."""
        if self.file.is_file() and until in self.measured.by_steps:
            return True
        reached = 0

        def note(moment: Progress) -> None:
            nonlocal reached
            reached = moment.step if moment.what == "steps" else reached
            self.report(moment)

        done = run_diffusion(run, self.device, report=note, stop=lambda: reached >= until or stop())
        return done or reached >= until

    @property
    def measured(self) -> Measured:
        """What was measured so far."""
        return _measured(self.file)

    def _measure(self, until: int) -> None:
        config = self.config
        if self.file.is_file() and until in self.measured.by_steps:
            return
        model = load(config.out / f"f{self.factor}" / "ldm" / FOLDER, str(device_of(self.device)))
        measured = self.measured if self.file.is_file() else self._begun(model)
        measured.by_steps[until] = self._sampled(model, config.sample_steps)[1]
        if until == config.diffusion.steps:
            measured.by_sampling = {steps: self._sampled(model, steps) for steps in config.throughput_steps}
        self.file.write_text(json.dumps(asdict(measured), indent=2), "utf-8")

    @torch.no_grad()
    def _begun(self, model: LatentDiffusion) -> Measured:
        made = torch.cat([model.decode(model.encode_images(x)).float().cpu() for x in torch.split(self.unseen, 8)])
        side = self.config.data.size // self.factor
        parameters = sum(p.numel() for p in model.unet.parameters())
        psnr = paired(made, self.unseen)["PSNR (dB)"]
        return Measured(self.factor, (model.latent_channels, side, side), parameters, psnr, study=_told(self.config))

    def _sampled(self, model: LatentDiffusion, steps: int) -> tuple[float, float]:
        """Return pictures a second and the Fréchet distance of samples in so many steps."""
        sampling = Sampling(self.config.data.size, steps, 1.0, self.config.seed)
        seconds, made = _timed(lambda: sampled(model, sampling, Shown(self.config.pictures)))
        frechet, _ = distances(self.network(eight_bit(made)), self.real, self.config.seed)
        return self.config.pictures / seconds, frechet


def _timed(function: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.perf_counter()
    made = function()  # on the CPU when it returns
    return time.perf_counter() - start, made


def _write(config: CompressionStudy, found: list[Measured], network: str) -> None:
    told = {
        "network": network,
        "measure": "Fréchet distance of samples to training pictures",
        "pictures": config.pictures,
        "sample_steps": config.sample_steps,
        "factors": [{name: value for name, value in asdict(one).items() if name != "study"} for one in found],
    }
    (config.out / RESULT).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", "utf-8")
    if found:
        plot(told, config.out / PLOT)
