"""Tables of noise schedules and of the original's DDIM steps."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from models.samplers.steps import denoising_intervals, timesteps
from models.schedule import Array, NoiseSchedule, ScheduleConfig, Spacing
from tests.parity.case import Case, NotCoveredError


class Schedules:
    """Outputs named schedule/table, steps/spacing/S and schedule/spacing/S/table."""

    def __init__(self, case: Case) -> None:
        self.configs = {name: ScheduleConfig.from_compvis(params) for name, params in case.config.items()}

    def __call__(self, output: str) -> Tensor:
        match output.split("/"):
            case ["steps", spacing, steps]:
                some = next(iter(self.configs))
                return torch.tensor(timesteps(self.schedule(some, spacing), int(steps))[::-1])
            case [name, table]:
                values = buffer(self.schedule(name, "uniform"), table)
                if values is None:
                    raise NotCoveredError(output)
                return torch.tensor(values)
            case [name, spacing, steps, table]:
                return self.table(self.schedule(name, spacing), int(steps), table)
        raise NotCoveredError(output)

    def schedule(self, name: str, spacing: str) -> NoiseSchedule:
        if name not in self.configs:
            raise NotCoveredError(f"schedule {name}")
        return NoiseSchedule(replace(self.configs[name], spacing=cast(Spacing, spacing)))

    def table(self, schedule: NoiseSchedule, steps: int, table: str) -> Tensor:
        """ᾱ before and after each step in ascending t, and ddim's σ (Song et al. 2021, Eq. 16)."""
        intervals = denoising_intervals(schedule, steps)[::-1]
        alphas = torch.tensor([i.start.alpha**2 for i in intervals], dtype=torch.float64)
        alphas_prev = torch.tensor([i.end.alpha**2 for i in intervals], dtype=torch.float64)
        if table in ("alphas", "alphas_prev"):
            return alphas if table == "alphas" else alphas_prev
        match = re.fullmatch(r"sigmas_eta([\d.]+)", table)
        if match is None:
            raise NotCoveredError(table)
        ancestral = ((1 - alphas_prev) / (1 - alphas) * (1 - alphas / alphas_prev)).sqrt()
        return float(match[1]) * ancestral


def buffer(schedule: NoiseSchedule, table: str) -> Array | None:
    """A table of the original's DDPM class by its name there, or None."""
    betas, bar = schedule.betas, schedule.alphas_cumprod
    before = np.append(1.0, bar[:-1])
    variance = betas * (1 - before) / (1 - bar)  # of q(z_{t−1} | z_t, z_0): Ho et al. 2020, Eq. 7
    derived = {
        "alphas_cumprod_prev": before,
        "posterior_variance": variance,
        "posterior_mean_coef1": betas * np.sqrt(before) / (1 - bar),
        "posterior_mean_coef2": (1 - before) * np.sqrt(1 - betas) / (1 - bar),
        "sqrt_alphas_cumprod": np.sqrt(bar),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - bar),
        "log_one_minus_alphas_cumprod": np.log(1 - bar),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / bar),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / bar - 1),
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
    }
    return derived[table] if table in derived else getattr(schedule, table, None)
