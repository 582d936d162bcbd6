"""One UNet call over slots of different jobs, steps, samplers, guidance and tasks, and the update of each after it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.inputs import Inputs
from models.networks.adapters import RowAdapters
from models.networks.controlnet import RowControls
from models.pipeline.pipeline import LatentDiffusion
from models.samplers.update import apply, coefficients, guide, lead_by_picture, stack_history
from workers.engine.latent_state import LatentState


def denoise(
    model: LatentDiffusion, pictures: Sequence[LatentState], padded_rows: int, *, strict: bool = False
) -> Tensor:
    """Evaluate one row of every picture in a single call of `padded_rows` rows; return x0 as predicted, n c h w.

    Where prompts of some were longer than a chunk there is a call for each length of context: padding would change
    the picture. In a strict one each has `padded_rows` rows, and what is added to a row is computed apart from the
    others'.

    Nothing changes if the call fails for want of memory. Nothing is copied from or to the host, but noise for some
    rows at a time.
    """
    c = coefficients([picture.row for picture in pictures], torch.stack([p.coefficients() for p in pictures]))
    z_t = torch.stack([picture.entering() for picture in pictures])  # n c h w
    out = _guided(model, pictures, z_t, c.timesteps, padded_rows, strict)  # n c h w
    history = stack_history([picture.predictions for picture in pictures], c.depth, z_t[0])
    z_next, p, x0 = apply(c, out, z_t, history, _noises(pictures, z_t) if c.noise is not None else None)
    # All are made before the first picture goes on: where memory lacks for one, the call is repeated.
    own = [(picture.following(z), each.clone()) for picture, z, each in zip(pictures, z_next, p, strict=True)]
    for picture, (z, prediction) in zip(pictures, own, strict=True):
        picture.advance(z, prediction)
    return x0


def _guided(
    model: LatentDiffusion,
    pictures: Sequence[LatentState],
    z_t: Tensor,
    timesteps: Tensor,
    padded_rows: int,
    strict: bool,
) -> Tensor:
    """Return the output, guided where asked, n c h w: rows are [bare and unconditional of the guided, all, padding]."""
    guided = [i for i, picture in enumerate(pictures) if picture.guidance_scale is not None]
    pictured = [i for i in guided if pictures[i].conditions.bare is not None]
    nulls = len(pictured) + len(guided)
    rows, told = [*pictured, *guided, *range(len(pictures))], _inputs(pictures, pictured, guided)
    out = _predicted(model, pictures, z_t, timesteps, rows, told, padded_rows, strict)
    eps_c = out[nulls : nulls + len(pictures)]  # n c h w
    if not guided:
        return eps_c
    eps_u, places = out[len(pictured) : nulls], {i: k for k, i in enumerate(guided)}
    scales = torch.stack([scale for i in guided if (scale := pictures[i].scale) is not None])[:, None, None, None]
    led = guide(eps_u, _rows(eps_c, guided), scales, [pictures[i].guidance_rescale for i in guided])
    for i, eps_bare in zip(pictured, out, strict=False):
        led[places[i]] = lead_by_picture(led[places[i]], eps_u[places[i]], eps_bare, pictures[i].image_guidance)
    if len(guided) == len(pictures):
        return led
    return torch.stack([led[places[i]] if i in places else eps_c[i] for i in range(len(pictures))])


def _rows(x: Tensor, numbers: Sequence[int]) -> Tensor:
    """Gather rows by numbers of the host, which an index tensor would have to copy to the device."""
    return x if list(numbers) == list(range(len(x))) else torch.stack([x[i] for i in numbers])


def _predicted(
    model: LatentDiffusion,
    pictures: Sequence[LatentState],
    z_t: Tensor,
    timesteps: Tensor,
    rows: Sequence[int],
    inputs: Sequence[Inputs],
    padded_rows: int,
    strict: bool,
) -> Tensor:
    """Return the network's output of r rows, and of padding behind them where one call has them all."""
    calls, outs = _by_length(inputs), []
    for places in calls:
        own, told = [rows[place] for place in places], [inputs[place] for place in places]
        adapters, controls = _adapters(pictures, own, strict), _controls(pictures, own, strict)
        missing = padded_rows - len(own) if strict or len(calls) == 1 else 0
        padded, batch = [*own, *own[-1:] * missing], Inputs.stack([*told, *told[-1:] * missing])
        z, t = _rows(z_t, padded), _rows(timesteps, padded)
        outs.append(model.predict(z, t, batch, adapters, controls, exact=strict))
    return _in_order(outs, calls)


def _inputs(pictures: Sequence[LatentState], pictured: Sequence[int], guided: Sequence[int]) -> list[Inputs]:
    """List what rows are told: what some are led away from without their picture, then with it, then all conditions."""
    bare = [told for i in pictured if (told := pictures[i].conditions.bare) is not None]
    led_away = [told for i in guided if (told := pictures[i].conditions.unconditional) is not None]
    return [*bare, *led_away, *(picture.conditions.inputs for picture in pictures)]


def _by_length(inputs: Sequence[Inputs]) -> list[list[int]]:
    """Group rows by the length of their contexts, which one call has to share."""
    groups: dict[int | None, list[int]] = {}
    for place, row in enumerate(inputs):
        groups.setdefault(None if row.context is None else len(row.context), []).append(place)
    return list(groups.values())


def _in_order(outs: Sequence[Tensor], calls: Sequence[Sequence[int]]) -> Tensor:
    """Bring the rows of several calls, each padded or not, back to their places."""
    if len(outs) == 1:
        return outs[0]
    found = {place: out[k] for out, places in zip(outs, calls, strict=True) for k, place in enumerate(places)}
    return torch.stack([found[place] for place in sorted(found)])


def _adapters(pictures: Sequence[LatentState], rows: Sequence[int], strict: bool) -> RowAdapters | None:
    """Gather what is added to each row; padding gets nothing."""
    layers = [pictures[i].adapters for i in rows]
    return None if all(each is None for each in layers) else RowAdapters(layers, apart=strict)


def _controls(pictures: Sequence[LatentState], rows: Sequence[int], strict: bool) -> RowControls | None:
    """Gather the ControlNets that act on each row; padding gets none."""
    acting = [picture.acting for picture in pictures]
    return RowControls([acting[i] for i in rows], apart=strict) if any(acting) else None


def _noises(pictures: Sequence[LatentState], z_t: Tensor) -> Tensor:
    """Return n c h w; zeros where a row adds none."""
    zero = torch.zeros_like(z_t[0])
    return torch.stack([picture.noise() if picture.row.noise else zero for picture in pictures])
