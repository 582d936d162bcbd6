"""What a row of a UNet call is conditioned on beside z_t and t: named tensors, which a batch stacks by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """The conditioning of one row, or with a first dimension b that of a batch; None where the network reads none."""

    context: Tensor | None = None  # n d, read by cross-attention
    concat: Tensor | None = None  # k h w, follows z_t on the channels
    labels: Tensor | None = None  # a class number or noise level, added to the time embedding
    added: Tensor | None = None  # p, projected and added to the time embedding: pooled text, sizes, crop, scores
    guidance_scale: Tensor | None = None  # a number, where the network reads it itself (latent consistency models)

    @classmethod
    def stack(cls, rows: Sequence[Inputs]) -> Inputs:
        """Make a batch of rows.

        Raises:
            ValueError: some rows have a tensor that others lack.
        """
        return _by_name(torch.stack, rows)

    @classmethod
    def cat(cls, batches: Sequence[Inputs]) -> Inputs:
        """Make one batch of several.

        Raises:
            ValueError: some batches have a tensor that others lack.
        """
        return _by_name(torch.cat, batches)

    def to(self, device: torch.device, dtype: torch.dtype) -> Inputs:
        """Move every tensor; only those of floating point change their dtype."""
        placed = {name: t.to(device, _dtype(name, t, dtype)) for name, t in _given(self).items()}
        return Inputs(**placed)


def _dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    # A thousand times the scale is taken the sine of: half precision would lose all of it.
    return dtype if tensor.is_floating_point() and name != "guidance_scale" else tensor.dtype


def _given(inputs: Inputs) -> dict[str, Tensor]:
    values = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    return {name: value for name, value in values.items() if value is not None}


def _by_name(join: Callable[[list[Tensor]], Tensor], parts: Sequence[Inputs]) -> Inputs:
    given = [_given(part) for part in parts]
    for part in given:
        if part.keys() != given[0].keys():
            raise ValueError(f"rows of one call have {sorted(given[0])} and {sorted(part)}; they must have the same")
    return Inputs(**{name: join([part[name] for part in given]) for name in given[0]})
