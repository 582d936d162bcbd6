"""A sampler is a table: rows of coefficients of one linear multistep update, the only one that the GPU loop knows.

A row is one network evaluation. With z_t the latent and `network` the (guided) output at t:

    p      = clamp(out · network + z · z_t)          the stored prediction, x0 or eps
    z_next = keep · z_t + Σ_k predictions[k] · p_k + raw · network + noise · n
    x0     = preview_p · p + preview_z · z_t

p_0 is this row's p, p_1 that of the row before, …; `raw` serves DDIM where x0 is clamped and eps is not, and the first
of two rows of a step (`two_rows`), which stores z_t itself: of such a row x0 isn't told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from models.schedule import NoiseLevel, Prediction

MAX_PREDICTIONS = 5  # PLMS: four eps of AB4 and the one of the improved Euler step that AB4 skips
_TINY = 2.0**-24  # ᾱ below which x0 can't be told from an eps prediction


@dataclass(frozen=True, slots=True)
class Row:
    """One network evaluation and the update after it.

    `alpha` and `sigma` are the noise level of the latent that enters (z_t = alpha·x0 + sigma·noise), for blending in
    known regions; `step` counts the user's steps from 1 (two rows may share one). A row that isn't `guided` is
    evaluated with the condition alone, whatever the guidance scale. Its n is correlated by `follows` with that of the
    row before, where both are increments of one Brownian path.
    """

    t: float
    alpha: float
    sigma: float
    out: float
    z: float
    keep: float
    predictions: tuple[float, ...]
    step: int
    preview_p: float = 1.0
    preview_z: float = 0.0
    noise: float = 0.0
    clamp: float | None = None
    raw: float = 0.0
    guided: bool = True
    follows: float = 0.0

    def finite(self) -> bool:
        values = (self.out, self.z, self.keep, *self.predictions, self.noise, self.raw, self.preview_p, self.preview_z)
        return all(math.isfinite(value) for value in values)


@dataclass(frozen=True, slots=True)
class Plan:
    """A compiled sampler: its rows, the user's steps, and what to keep between rows.

    `history[i]` is how many stored predictions, newest first, must be there when row i starts for it and the rows
    after it; `history[len(rows)]` is 0. `start` is the noise level that the first row expects, `end` that which the
    last one leaves; where nothing but noise is there, it starts from `noise_scale` times x_T (1 but for k-diffusion's
    schedules, which give x_T that level's σ).
    """

    sampler: str
    steps: int
    rows: tuple[Row, ...]
    history: tuple[int, ...]
    end: NoiseLevel
    noise_scale: float = 1.0

    @property
    def unguided(self) -> frozenset[int]:
        """The rows that are evaluated with the condition alone."""
        return frozenset(i for i, row in enumerate(self.rows) if not row.guided)

    @property
    def start(self) -> NoiseLevel:
        return NoiseLevel(self.rows[0].alpha, self.rows[0].sigma)


def history_of(rows: tuple[Row, ...]) -> tuple[int, ...]:
    """Count how many stored predictions the rows from each index on still read."""
    needed = [0]
    for row in reversed(rows):
        # The next rows' reach shrinks by one, for this row's own prediction comes in front.
        needed.append(max(len(row.predictions) - 1, needed[-1] - 1, 0))
    return tuple(reversed(needed))


def x0_form(prediction: Prediction, level: NoiseLevel) -> tuple[float, float]:
    """(out, z) with x0 = out · network + z · z_t; v: Salimans & Ho 2022, Appendix D.

    Infinite where eps is predicted at zero signal, where x0 can't be known.
    """
    if prediction == "x0":
        return 1.0, 0.0
    if prediction == "v":
        return -level.sigma, level.alpha
    if level.alpha**2 < _TINY * 0.5:
        return -math.inf, math.inf
    return -level.sigma / level.alpha, 1.0 / level.alpha


def eps_form(prediction: Prediction, level: NoiseLevel) -> tuple[float, float]:
    """(out, z) with eps = out · network + z · z_t."""
    if prediction == "eps":
        return 1.0, 0.0
    if prediction == "v":
        return level.alpha, level.sigma
    return -level.alpha / level.sigma, 1.0 / level.sigma
