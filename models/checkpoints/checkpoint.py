"""What every reader of checkpoints returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from core.errors import CheckpointError
from models.checkpoints.build import State, fit
from models.checkpoints.variants import Variant
from models.networks.autoencoder import Autoencoder
from models.networks.conditioning import ClassConfig, TextConfig
from models.networks.make import make_conditioner
from models.networks.unet import UNet
from models.pipeline.config import SCORED, SIZED, ModelConfig
from models.tokenizers.prompts import PromptTokenizer


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Config, weights under our names by part (unet, first_stage, conditioner), the tokenizers if there are any."""

    config: ModelConfig
    states: dict[str, dict[str, Tensor]]
    tokenizers: tuple[PromptTokenizer, ...] = ()  # one for each text tower
    assumptions: tuple[str, ...] = ()  # what the files don't say and a family's habit filled in
    prediction_assumed: bool = False  # nothing tells eps from v: the network is asked when it is loaded
    origin: Mapping[int, str] = field(default_factory=dict)  # the file's own keys by the ids of its tensors
    sampler: str | None = None  # that the authors chose, where it is one of ours
    levels: str | None = None  # that they chose, one of `models.samplers.SCHEDULES`; None: the schedule's own spacing
    eta: float = 0.0
    variant: Variant | None = None  # of Stable Diffusion, distilled to few steps


def makers(config: ModelConfig) -> dict[str, Callable[[], nn.Module]]:
    """Return how the module of each part is made."""
    parts: dict[str, Callable[[], nn.Module]] = {
        "unet": lambda: UNet(config.unet),
        "first_stage": lambda: Autoencoder(config.first_stage),
    }
    conditioner = config.conditioner
    if conditioner is not None:
        parts["conditioner"] = lambda: make_conditioner(conditioner)
    return parts


def shapes(config: ModelConfig) -> dict[str, dict[str, torch.Size]]:
    """Return keys and shapes of every part, without allocating any."""
    with torch.device("meta"):
        modules = {part: make() for part, make in makers(config).items()}
    return {part: {key: value.shape for key, value in m.state_dict().items()} for part, m in modules.items()}


def fitted(checkpoint: Checkpoint) -> dict[str, State]:
    """Return the weights exactly as our modules hold them, unchanged in precision.

    Raises:
        CheckpointError: naming a key.
    """
    return {
        part: fit(checkpoint.states[part], wanted, part, checkpoint.origin)
        for part, wanted in shapes(checkpoint.config).items()
    }


def check(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint whose parts fit one another: what would fail at the first picture is refused by name.

    Raises:
        CheckpointError: naming the parts that don't.
    """
    unet, first, conditioner = checkpoint.config.unet, checkpoint.config.first_stage, checkpoint.config.conditioner
    pictures = (first.in_channels, first.out_channels)
    width = conditioner.width if isinstance(conditioner, TextConfig | ClassConfig) else None
    if pictures != (3, 3):
        raise CheckpointError(f"first stage: reads {pictures[0]} channels and makes {pictures[1]}; pictures have three")
    if unet.out_channels != first.embed_dim:
        raise CheckpointError(
            f"unet: makes {unet.out_channels} channels; the first stage's latents have {first.embed_dim}"
        )
    if unet.context_dim is not None and width is None:
        raise CheckpointError(
            "unet: has cross-attention, and no text encoder or class embedder is there to be read by it"
        )
    if unet.context_dim != width:
        raise CheckpointError(f"unet: reads a context of width {unet.context_dim}; the conditioner's is {width}")
    _check_added(checkpoint.config)
    if unet.added_dim is not None and checkpoint.config.concat in ("source", "depth"):
        detail = f"unet: Stable Diffusion XL of {unet.in_channels} channels; InstructPix2Pix of XL isn't served"
        raise CheckpointError(detail, field="in_channels", value=unet.in_channels)
    return checkpoint


def _check_added(config: ModelConfig) -> None:
    """Check what is added to the time embedding.

    Raises:
        CheckpointError: it isn't a pooled text and the numbers of SDXL or of its refiner.
    """
    unet, numbers = config.unet, config.added_numbers
    pooled = config.conditioner.pooled if isinstance(config.conditioner, TextConfig) else None
    if unet.added_dim is None:
        return
    if pooled is None or numbers not in (SIZED, SCORED) or pooled + numbers * unet.added_sinusoids != unet.added_dim:
        raise CheckpointError(
            f"unet: adds a vector of {unet.added_dim} to the time embedding; of a pooled text of {pooled} and "
            f"{SIZED} or {SCORED} numbers of {unet.added_sinusoids} each it can't be made"
        )
