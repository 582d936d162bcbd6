"""The training of a UNet, and of the conditioner with it, on encoded latents (paper Eq. 2 and 3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from models.networks.autoencoder import Autoencoder
from models.networks.conditioning import ConditionerModule
from models.pipeline.pipeline import LatentDiffusion
from models.training.configs.diffusion import DiffusionRun, LatentRun
from models.training.data.loader import made_ahead, parts_of
from models.training.data.order import order_digest
from models.training.diffusion.model import Trained, pipeline, weights_digest
from models.training.diffusion.objective import noised, signal_and_noise, target, timestep_weights
from models.training.diffusion.samples import Samples
from models.training.diffusion.show import Sampling, Shown, sampled
from models.training.diffusion.write import write_checkpoint
from models.training.loop.arithmetic import compiled, computing
from models.training.loop.players import Losses, Player
from models.training.loop.processes import Processes
from models.training.loop.state import to_device

NETWORK = "unet"


class DiffusionTraining:
    """A `Stage` of the loop: the squared error of ε_θ, v or x0 at random timesteps."""

    compiles = True  # where the device is one on which that pays

    def __init__(
        self,
        run: LatentRun,
        module: nn.Module,
        frozen: ConditionerModule | None,
        samples: Samples,
        shown: Shown,
        processes: Processes,
        device: torch.device,
    ) -> None:
        self.run, self.samples, self.shown, self.processes, self.device = run, samples, shown, processes, device
        self.module, self.frozen = module, frozen
        self._players = {NETWORK: Player.of(module, run.optimizer, run.ema)}
        self._forward = compiled(run, device, module.forward, pays=self.compiles)
        schedule = samples.model.schedule
        self._alpha, self._sigma = (t.to(device) for t in signal_and_noise(schedule))
        self._weights = timestep_weights(schedule, run.min_snr, run.min_weight).to(device)

    @property
    def players(self) -> Mapping[str, Player]:
        return self._players

    @cached_property
    def inputs(self) -> Mapping[str, str]:
        first = {"first stage": weights_digest(self.samples.model.first_stage.state_dict())}
        text = {} if self.frozen is None else {"text encoder": weights_digest(self.frozen.state_dict())}
        folder = self.samples.folder
        return {"set of pictures": folder.fingerprint, **order_digest(folder, self.run.data), **first, **text}

    def batches(self, step: int) -> Iterator[tuple[Sequence[int], object]]:
        made = made_ahead(parts_of(self.run, self.processes, step), self._batch, self.run.data.workers)
        yield from zip(parts_of(self.run, self.processes, step), made, strict=True)

    def _batch(self, numbers: list[int]) -> dict[str, Tensor]:
        return self.samples.batch(numbers, numbers[0] // self.run.batch)

    def before(self, step: int) -> None:
        """Do nothing: all steps are alike."""

    def plays(self, player: str, step: int) -> bool:  # noqa: ARG002 (one network, always)
        return True

    def losses(self, player: str, part: int, batch: object, step: int) -> Losses:  # noqa: ARG002 (one network)
        assert isinstance(batch, dict)
        given = to_device(batch, self.device)
        x0, noise, timesteps = (given.pop(name) for name in ("x0", "noise", "timesteps"))
        alpha, sigma = (t[timesteps][:, None, None, None] for t in (self._alpha, self._sigma))
        with computing(self.run, self.device):
            out = self._forward(noised(x0, noise, alpha, sigma), timesteps, given)
        error = (out.float() - target(self.samples.model.config.schedule.prediction, x0, noise, alpha, sigma)).square()
        each = error.mean(dim=(1, 2, 3))
        return {"loss": (each * self._weights[timesteps]).sum(), "unweighted loss": each.sum()}

    @property
    def averaged(self) -> LatentDiffusion:
        """The model with averaged weights."""
        average = self._players[NETWORK].average
        assert isinstance(average, Trained)
        model = self.samples.model
        first = model.first_stage
        assert isinstance(first, Autoencoder)
        conditioner = self.frozen if average.conditioner is None else average.conditioner
        return pipeline(model.config, average.unet, first, conditioner, model.tokenizers, self.device)

    def pictures(self) -> Tensor:
        return sampled(self.averaged, Sampling.of(self.run), self.shown)

    def measure(self) -> dict[str, float]:
        """Measure nothing: a loss of held-out noise says little; `latentd eval` measures pictures."""
        return {}

    def save(self) -> None:
        assert isinstance(self.run, DiffusionRun)
        write_checkpoint(self.run, self.averaged, self.samples.folder.classes)
