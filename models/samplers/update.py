"""The update of every sampler in torch, over many slots at once (equations in `table`).

Only elementwise multiplications and additions, each rounded by itself: a slot's bits don't depend on its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from models.samplers.table import MAX_PREDICTIONS, Row


@dataclass(frozen=True, slots=True)
class Coefficients:
    """The rows of n slots as tensors, each n 1 1 1, and the timesteps as n; `predictions` is as long as the longest
    row, `noise`, `clamp` and `raw` are None where no row has any."""

    timesteps: Tensor
    out: Tensor
    z: Tensor
    keep: Tensor
    preview_p: Tensor
    preview_z: Tensor
    predictions: tuple[Tensor, ...]
    noise: Tensor | None
    clamp: Tensor | None
    raw: Tensor | None

    @property
    def depth(self) -> int:
        """How many stored predictions the update reads."""
        return len(self.predictions) - 1


def stack_rows(
    rows: Sequence[Row], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Coefficients:
    """Stack the coefficients of one row a slot, by a single copy to `device`; rounded from float64 to `dtype`."""
    return coefficients(rows, table_of(rows, device, dtype))


def table_of(rows: Sequence[Row], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a plan's coefficients, r k of any plan's width, for `coefficients` to take rows from."""
    return torch.tensor([_values(row, MAX_PREDICTIONS) for row in rows], dtype=dtype).to(device)


def coefficients(rows: Sequence[Row], table: Tensor) -> Coefficients:
    """Name the coefficients of one row a slot; `table` is n k, its rows those of `table_of`."""
    taps = max(len(row.predictions) for row in rows)
    timesteps, *columns = rearrange(table, "n k -> k n").unbind()
    out, z, keep, preview_p, preview_z, noise, clamp, raw, *predictions = (
        rearrange(column, "n -> n 1 1 1") for column in columns
    )
    return Coefficients(
        timesteps, out, z, keep, preview_p, preview_z, tuple(predictions[:taps]),
        noise if any(row.noise for row in rows) else None,
        clamp if any(row.clamp is not None for row in rows) else None,
        raw if any(row.raw for row in rows) else None,
    )  # fmt: skip


def apply(
    c: Coefficients, out: Tensor, z_t: Tensor, history: Tensor | None = None, noise: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Apply one update: (z_next, p, x0), each n c h w.

    `out` and z_t are n c h w, out already guided. `history` is n k c h w with k ≥ `c.depth` stored predictions, newest
    first (`stack_history`); `noise` is n c h w and is needed where `c.noise` isn't None.
    """
    p = c.out * out + c.z * z_t  # n c h w
    if c.clamp is not None:
        p = torch.minimum(torch.maximum(p, -c.clamp), c.clamp)
    z_next = c.keep * z_t + c.predictions[0] * p
    for k, weight in enumerate(c.predictions[1:]):
        z_next = z_next + weight * _needed(history, "history")[:, k]
    if c.raw is not None:
        z_next = z_next + c.raw * out
    if c.noise is not None:
        z_next = z_next + c.noise * _needed(noise, "noise")
    return z_next, p, c.preview_p * p + c.preview_z * z_t


def guide(eps_u: Tensor, eps_c: Tensor, guidance_scale: Tensor, rescale: Sequence[float] = ()) -> Tensor:
    """Guide the raw output without a classifier: eps_u + s·(eps_c − eps_u). `guidance_scale` is n 1 1 1.

    Ho & Salimans 2022, in the form of the original's code, where s = 1 is no guidance. `rescale` is how much of each
    row's standard deviation is set back to that of its condition, against overexposure (Lin et al. 2024, §3.4).
    """
    guided = eps_u + guidance_scale * (eps_c - eps_u)  # n c h w
    if any(rescale):
        # Row by row, and in one layout: a sum's order, and with it its bits, may depend on how many rows are summed at
        # once, and on whether the network's channels-last answer came as it is or stacked with a neighbour's.
        pairs = zip(eps_c.contiguous(), guided.contiguous(), strict=True)
        ratios = [eps.std() / own.std() for eps, own in pairs]
        shares = zip(rescale, ratios, strict=True)
        factors = [share * ratio + (1 - share) if share else torch.ones_like(ratio) for share, ratio in shares]
        guided = guided * rearrange(torch.stack(factors), "n -> n 1 1 1")
    return guided


def lead_by_picture(led: Tensor, eps_u: Tensor, eps_bare: Tensor, image_guidance_scale: float) -> Tensor:
    """Guide by the picture that is changed, too: led + (s_I − 1)·(eps_u − eps_bare), c h w each.

    Brooks et al. 2023, Eq. 3, whose text part `guide` has made: `eps_u` is told of the picture alone, `eps_bare` of
    neither picture nor text.
    """
    return led + (image_guidance_scale - 1.0) * (eps_u - eps_bare)


def stack_history(histories: Sequence[Sequence[Tensor]], depth: int, like: Tensor) -> Tensor | None:
    """Stack each slot's newest `depth` stored predictions (c h w) as n k c h w, None where depth is 0.

    Those that a slot lacks, which its row weighs with nothing, are zeros. `like` is any c h w of the right dtype and
    device.
    """
    if depth == 0:
        return None
    zero = torch.zeros_like(like)
    return torch.stack([torch.stack(([*kept, *[zero] * depth])[:depth]) for kept in histories])


def _values(row: Row, taps: int) -> list[float]:
    bound = math.inf if row.clamp is None else row.clamp
    padding = [0.0] * (taps - len(row.predictions))
    head = [row.t, row.out, row.z, row.keep, row.preview_p, row.preview_z, row.noise, bound, row.raw]
    return [*head, *row.predictions, *padding]


def _needed(value: Tensor | None, name: str) -> Tensor:
    if value is None:
        raise ValueError(f"these rows need {name}, none was given")
    return value
