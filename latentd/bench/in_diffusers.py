"""The weights of a checkpoint in diffusers' own networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from core.errors import ConfigurationError
from models.checkpoints.checkpoint import Checkpoint
from models.checkpoints.layouts.diffusers.writer import components
from models.networks.conditioning import Encoded

if TYPE_CHECKING:
    from latentd.bench.diffusers_loop import Condition, DiffusersModel


def check_diffusers() -> None:
    """Find out early that there is nothing to compare with.

    Raises:
        ConfigurationError: diffusers isn't installed.
    """
    if find_spec("diffusers") is None:
        raise ConfigurationError(
            "diffusers isn't installed; pip install 'latentd[dev]', or --side latentd alone", field="side"
        )


def in_diffusers(checkpoint: Checkpoint, device: str, dtype: torch.dtype) -> DiffusersModel:
    """Make diffusers' UNet and first stage around the same weights.

    Raises:
        CheckpointError: diffusers can't express the model.
    """
    import diffusers

    from latentd.bench.diffusers_loop import DiffusersModel

    config = checkpoint.config
    # Prompts are encoded by ours: the text encoder isn't compared.
    alone = replace(checkpoint, config=replace(config, conditioner=None))
    parts = components(alone, "StableDiffusionPipeline")
    precisions = {"unet": dtype, "vae": config.first_stage_dtype(dtype)}
    made: dict[str, Any] = {}
    for name, precision in precisions.items():
        about, state = parts[name]
        assert state is not None
        made[name] = _module(getattr(diffusers, about["_class_name"]), about, state, device, precision)
    return DiffusersModel(made["unet"], made["vae"], parts["scheduler"][0])


def _module(cls: Any, config: dict[str, Any], state: Mapping[str, Tensor], device: str, dtype: torch.dtype) -> Any:
    with torch.device("meta"):
        module = cls.from_config(config)
    placed = {name: value.to(device, dtype).contiguous() for name, value in state.items()}
    module.load_state_dict(placed, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def repeated(
    given: Encoded, null: Encoded, concat: Tensor | None, sizes: Sequence[int], dtype: torch.dtype, batch: int
) -> Condition:
    """Make what diffusers' UNet reads beside `batch` guided latents, of what it reads beside one.

    sizes: what a model that also reads a pooled vector, SDXL's, is told of the picture.
    """
    from latentd.bench.diffusers_loop import Condition

    more: dict[str, Any] = {}
    if given.pooled is not None and null.pooled is not None:
        pooled = torch.cat([_times(null.pooled, batch), _times(given.pooled, batch)]).to(dtype)  # 2b p
        times = torch.tensor([sizes] * len(pooled), device=pooled.device, dtype=dtype)  # 2b 6
        more["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": times}
    context, away = (_times(one.context.to(dtype), batch) for one in (given, null))
    return Condition(context, away, None if concat is None else _times(concat.to(dtype), batch), more)


def _times(x: Tensor, batch: int) -> Tensor:
    return x.expand(batch, *x.shape[1:])
