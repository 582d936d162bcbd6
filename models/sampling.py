"""A whole sampling run of one batch, for evaluation, sample grids and tests; the service batches single steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.pipeline import LatentDiffusion
from models.samplers.table import Plan
from models.samplers.update import apply, guide, stack_history, stack_rows

Noise = Callable[[int], Tensor]  # row number → b c h w


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the network is told besides z_t and t; `null_context` is the context of the guidance's other half."""

    context: Tensor | None = None  # b n d
    null_context: Tensor | None = None  # b n d
    guidance_scale: float = 1.0
    concat: Tensor | None = None  # b k h w
    labels: Tensor | None = None  # b
    null_labels: Tensor | None = None  # b


@torch.inference_mode()
def trajectory(
    model: LatentDiffusion, plan: Plan, z_t: Tensor, conditions: Conditions, noise: Noise | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each row's (z_next, x0), b c h w both, from z_t at the plan's first noise level."""
    history: list[Tensor] = []
    z_t = z_t.to(model.device)
    for i, row in enumerate(plan.rows):
        out = guided(model, z_t, torch.full((len(z_t),), row.t), conditions)
        c = stack_rows([row] * len(z_t), model.device)
        stored = stack_history([[p[b] for p in history] for b in range(len(z_t))], c.depth, z_t[0])
        drawn = noise(i).to(z_t) if noise is not None and c.noise is not None else None
        z_t, p, x0 = apply(c, out, z_t, stored, drawn)
        history = [p, *history][: plan.history[i + 1]]
        yield z_t, x0


def sample(
    model: LatentDiffusion, plan: Plan, z_t: Tensor, conditions: Conditions, noise: Noise | None = None
) -> Tensor:
    """The last latent of `trajectory`, b c h w."""
    for z_next, _ in trajectory(model, plan, z_t, conditions, noise):
        z_t = z_next
    return z_t


def guided(model: LatentDiffusion, z_t: Tensor, timesteps: Tensor, conditions: Conditions) -> Tensor:
    """Raw prediction b c h w under classifier-free guidance; both halves share one network call."""
    c = conditions
    if c.guidance_scale == 1.0 or (c.null_context is None and c.null_labels is None):
        return model.predict(z_t, timesteps, c.context, c.concat, c.labels)
    out = model.predict(
        torch.cat([z_t, z_t]),
        torch.cat([timesteps, timesteps]),
        _both(c.null_context, c.context),
        _both(c.concat, c.concat),
        _both(c.null_labels if c.null_labels is not None else c.labels, c.labels),
    )
    out_u, out_c = out.chunk(2)
    return guide(out_u, out_c, torch.tensor(c.guidance_scale, device=out.device, dtype=out.dtype))


def _both(null: Tensor | None, given: Tensor | None) -> Tensor | None:
    return None if null is None or given is None else torch.cat([null, given])
