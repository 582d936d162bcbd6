"""A whole sampling run of one batch, for evaluation, sample grids and tests; the service batches single steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from models.inputs import Inputs
from models.pipeline.pipeline import LatentDiffusion
from models.samplers.table import Plan
from models.samplers.update import apply, guide, stack_history, stack_rows

Noise = Callable[[int], Tensor]  # row number → b c h w


@dataclass(frozen=True, slots=True, eq=False)
class Conditioning:
    """What the network is told of a batch besides z_t and t; `unconditional` is what guidance leads away from."""

    inputs: Inputs = field(default_factory=Inputs)
    unconditional: Inputs | None = None
    guidance_scale: float = 1.0
    guidance_rescale: float = 0.0


@torch.inference_mode()
def trajectory(
    model: LatentDiffusion, plan: Plan, z_t: Tensor, conditioning: Conditioning, noise: Noise | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each row's (z_next, x0), b c h w both, from z_t at the plan's first noise level."""
    history: list[Tensor] = []
    z_t = z_t.to(model.device)
    for i, row in enumerate(plan.rows):
        told = conditioning if row.guided else replace(conditioning, unconditional=None)
        out = guided(model, z_t, torch.full((len(z_t),), row.t), told)
        c = stack_rows([row] * len(z_t), model.device)
        stored = stack_history([[p[b] for p in history] for b in range(len(z_t))], c.depth, z_t[0])
        drawn = noise(i).to(z_t) if noise is not None and c.noise is not None else None
        z_t, p, x0 = apply(c, out, z_t, stored, drawn)
        history = [p, *history][: plan.history[i + 1]]
        yield z_t, x0


def sample(
    model: LatentDiffusion, plan: Plan, z_t: Tensor, conditioning: Conditioning, noise: Noise | None = None
) -> Tensor:
    """Return the last latent of `trajectory`, b c h w."""
    for z_next, _ in trajectory(model, plan, z_t, conditioning, noise):
        z_t = z_next
    return z_t


def guided(model: LatentDiffusion, z_t: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
    """Predict b c h w under classifier-free guidance; both halves share one network call."""
    c = conditioning
    if c.guidance_scale in (0.0, 1.0) or c.unconditional is None:
        return model.predict(z_t, timesteps, c.inputs)
    both = Inputs.cat([c.unconditional, c.inputs])
    out_u, out_c = model.predict(torch.cat([z_t, z_t]), torch.cat([timesteps, timesteps]), both).chunk(2)
    scale = torch.tensor(c.guidance_scale, device=out_u.device)
    return guide(out_u, out_c, scale, [c.guidance_rescale] * len(z_t))
