"""Noise schedules: how much signal and how much noise a latent holds at each training timestep.

z_t = √ᾱ_t · z_0 + √(1 − ᾱ_t) · noise  (Ho et al. 2020, Eq. 4). Everything here is float64 on the CPU, made once per
checkpoint; the samplers turn it into the few float32 coefficients that the GPU sees.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar, cast, get_args

import numpy as np
from numpy.typing import NDArray

from core.errors import CheckpointError

_T = TypeVar("_T")
Array = NDArray[np.float64]
BetaSchedule = Literal["scaled_linear", "linear", "sqrt", "cosine"]
Prediction = Literal["eps", "v", "x0"]
Spacing = Literal["leading", "trailing", "linspace", "uniform", "quad"]

_PREDICTIONS: Mapping[str, Prediction] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
_DIFFUSERS_BETAS: Mapping[str, BetaSchedule] = {
    "scaled_linear": "scaled_linear",
    "linear": "linear",
    "squaredcos_cap_v2": "cosine",
}
_COMPVIS_BETAS: Mapping[str, BetaSchedule] = {
    "linear": "scaled_linear",  # the original's "linear" is linear in √β
    "sqrt_linear": "linear",
    "sqrt": "sqrt",
    "cosine": "cosine",
}
# Schedulers of diffusers that clamp x0 unless told otherwise, and those whose steps are spread by linspace.
_CLIPPING = ("DDIMScheduler", "DDPMScheduler")
_LEADING = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LCMScheduler", "TCDScheduler")
# Those whose betas are Stable Diffusion's unless told otherwise.
_SCALED = ("LCMScheduler", "TCDScheduler")


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """What a checkpoint's training fixed about its noise, and how its authors space sampling steps.

    `spacing` "leading", "trailing" and "linspace" are the three of Lin et al. 2024, Table 2; "uniform" and "quad"
    are the step sets of the original latent-diffusion code. `clip` bounds |x0|, for models of bounded latents.

    Raises:
        CheckpointError: a field is out of its bounds.
    """

    timesteps: int = 1000
    beta_schedule: BetaSchedule = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    trained_betas: tuple[float, ...] | None = None
    prediction: Prediction = "eps"
    zero_terminal_snr: bool = False
    spacing: Spacing = "leading"
    steps_offset: int = 1
    set_alpha_to_one: bool = False
    clip: float | None = None

    def __post_init__(self) -> None:
        _one_of("beta_schedule", self.beta_schedule, get_args(BetaSchedule))
        _one_of("prediction", self.prediction, get_args(Prediction))
        _one_of("spacing", self.spacing, get_args(Spacing))
        _within("timesteps", self.timesteps, 1, 100_000)
        _within("beta_start", self.beta_start, 0, self.beta_end)
        _within("beta_end", self.beta_end, self.beta_start, 1)
        _within("steps_offset", self.steps_offset, 0, self.timesteps - 1)
        if self.trained_betas is not None and len(self.trained_betas) != self.timesteps:
            raise CheckpointError(f"trained_betas has {len(self.trained_betas)} values, timesteps is {self.timesteps}")

    @classmethod
    def from_diffusers(cls, config: Mapping[str, Any]) -> ScheduleConfig:
        """Read a diffusers `scheduler_config.json`; what it leaves out has that scheduler's default."""
        kind = str(config.get("_class_name", "DDIMScheduler"))
        if config.get("thresholding"):
            raise CheckpointError("scheduler_config.json: thresholding is for pixel models and is not supported")
        betas = config.get("trained_betas")
        clips = kind in _CLIPPING and config.get("clip_sample", True)
        shape, start, end = ("scaled_linear", 0.00085, 0.012) if kind in _SCALED else ("linear", 0.0001, 0.02)
        return cls(
            timesteps=int(config.get("num_train_timesteps", 1000)),
            beta_schedule=_lookup("beta_schedule", config.get("beta_schedule", shape), _DIFFUSERS_BETAS),
            beta_start=float(config.get("beta_start", start)),
            beta_end=float(config.get("beta_end", end)),
            trained_betas=None if betas is None else tuple(float(beta) for beta in betas),
            prediction=_lookup("prediction_type", config.get("prediction_type", "epsilon"), _PREDICTIONS),
            zero_terminal_snr=bool(config.get("rescale_betas_zero_snr", False)),
            spacing=config.get("timestep_spacing", "leading" if kind in _LEADING else "linspace"),
            steps_offset=int(config.get("steps_offset", 0)),
            set_alpha_to_one=bool(config.get("set_alpha_to_one", kind != "PNDMScheduler")),
            clip=float(config.get("clip_sample_range", 1.0)) if clips else None,
        )

    @classmethod
    def from_compvis(cls, params: Mapping[str, Any], spacing: Spacing = "leading") -> ScheduleConfig:
        """Read `model.params` of an original latent-diffusion config.

        "leading" with offset 1 is the original's "uniform" wherever `steps` divides `timesteps`, and, unlike it,
        always has as many steps as were asked for.
        """
        return cls(
            timesteps=int(params.get("timesteps", 1000)),
            beta_schedule=_lookup("beta_schedule", params.get("beta_schedule", "linear"), _COMPVIS_BETAS),
            beta_start=float(params.get("linear_start", 1e-4)),
            beta_end=float(params.get("linear_end", 2e-2)),
            prediction=cast(Prediction, params.get("parameterization", "eps")),
            spacing=spacing,
        )


@dataclass(frozen=True, slots=True)
class NoiseLevel:
    """A noise level: z = alpha·x0 + sigma·noise with alpha² + sigma² = 1."""

    alpha: float
    sigma: float

    @classmethod
    def of(cls, alpha_cumprod: float) -> NoiseLevel:
        return cls(math.sqrt(alpha_cumprod), math.sqrt(1.0 - alpha_cumprod))

    @property
    def ratio(self) -> float:
        """k-diffusion's σ, sigma / alpha."""
        return self.sigma / self.alpha

    @property
    def log_snr(self) -> float:
        """λ = log(alpha / sigma), half the log signal-to-noise ratio; ±∞ at pure noise and at no noise."""
        if self.alpha == 0.0:
            return -math.inf
        return math.inf if self.sigma == 0.0 else math.log(self.alpha) - math.log(self.sigma)


@dataclass(frozen=True)
class NoiseSchedule:
    """The tables of one `ScheduleConfig`, float64, indexed by timestep 0 … timesteps − 1; equal configs are equal."""

    config: ScheduleConfig

    @cached_property
    def betas(self) -> Array:
        c = self.config
        betas = np.asarray(c.trained_betas, np.float64) if c.trained_betas is not None else _betas(c)
        return _frozen(_zero_terminal_snr(betas) if c.zero_terminal_snr else betas)

    @cached_property
    def alphas_cumprod(self) -> Array:
        return _frozen(np.cumprod(1.0 - self.betas))

    @property
    def final_alpha_cumprod(self) -> float:
        """ᾱ before timestep 0: 1, or for checkpoints of the original's family ᾱ_0 again."""
        return 1.0 if self.config.set_alpha_to_one else float(self.alphas_cumprod[0])

    def level(self, t: float) -> NoiseLevel:
        """Return the noise level at timestep t; between timesteps σ/α is interpolated linearly."""
        low = math.floor(t)
        if low == t:
            return NoiseLevel.of(float(self.alphas_cumprod[low]))
        ratios = [math.sqrt((1.0 - a) / max(a, 2.0**-24)) for a in self.alphas_cumprod[low : low + 2]]
        ratio = ratios[0] + (t - low) * (ratios[1] - ratios[0])
        return NoiseLevel.of(1.0 / (1.0 + ratio * ratio))


def _betas(c: ScheduleConfig) -> Array:
    if c.beta_schedule == "scaled_linear":
        return np.square(np.linspace(math.sqrt(c.beta_start), math.sqrt(c.beta_end), c.timesteps, dtype=np.float64))
    if c.beta_schedule == "cosine":  # Nichol & Dhariwal 2021, Eq. 17
        u = np.arange(c.timesteps + 1, dtype=np.float64) / c.timesteps
        bar = np.cos((u + 0.008) / 1.008 * (np.pi / 2)) ** 2
        return np.asarray(np.minimum(1.0 - bar[1:] / bar[:-1], 0.999), np.float64)
    linear = np.linspace(c.beta_start, c.beta_end, c.timesteps, dtype=np.float64)
    return np.sqrt(linear) if c.beta_schedule == "sqrt" else linear


def _zero_terminal_snr(betas: Array) -> Array:
    """Shift and scale √ᾱ so that the last one is 0 and the first stays: Lin et al. 2024, Algorithm 1."""
    root = np.sqrt(np.cumprod(1.0 - betas))
    bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return np.append(1.0 - bar[0], 1.0 - bar[1:] / bar[:-1])


def _frozen(values: NDArray[np.floating[Any]]) -> Array:
    table = np.asarray(values, np.float64)
    table.setflags(write=False)
    return table


def _lookup(name: str, value: object, known: Mapping[str, _T]) -> _T:
    _one_of(name, value, tuple(known))
    return known[str(value)]


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise CheckpointError(f"{name} is {value!r}; it must be one of {', '.join(known)}", field=name, value=value)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise CheckpointError(f"{name} is {value}; it must lie in [{low}, {high}]", field=name, value=value)
