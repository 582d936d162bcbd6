"""The model that a run trains: its configuration from the run's, its networks, and the part that learns."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from core.errors import ConfigurationError
from models.checkpoints.build import build
from models.checkpoints.checkpoint import fitted
from models.checkpoints.layouts.detect import load_checkpoint
from models.checkpoints.layouts.first_stage import FirstStage, load_first_stage
from models.inputs import Inputs
from models.networks.autoencoder import Autoencoder
from models.networks.conditioning import (
    ClassConfig,
    ClassEmbedder,
    Conditioner,
    ConditionerModule,
    RescalerConfig,
    SpatialRescaler,
    TextConfig,
    TextEncoder,
    TowerConfig,
)
from models.networks.make import make_conditioner
from models.networks.unet import UNet
from models.pipeline.config import IMAGENET, Concat, ModelConfig
from models.pipeline.denoiser import Denoiser
from models.pipeline.pipeline import LatentDiffusion
from models.schedule import NoiseSchedule
from models.tokenizers.prompts import PromptTokenizer, shipped_bert
from models.training.configs.diffusion import DiffusionRun, LdmRun, MapCondition, TextCondition, UpscalerRun
from models.training.data.folder import Folder

HEAD = 64  # width of a head of the paper's text transformer (App. E.2)


@dataclass(frozen=True, slots=True)
class Condition:
    """What a run is conditioned on: the network's config, its first weights, the tokenizers, whether it learns."""

    config: Conditioner | None = None
    state: dict[str, Tensor] | None = None
    tokenizers: tuple[PromptTokenizer, ...] = ()  # one for each text tower
    trained: bool = False

    def network(self, device: torch.device) -> ConditionerModule | None:
        """Make the conditioner, with its first weights or torch's initialisation."""
        config = self.config
        if config is None:
            return None
        if self.state is not None:
            module = build(lambda: make_conditioner(config), self.state, "conditioner", str(device), torch.float32)
            return module.requires_grad_(self.trained)
        return make_conditioner(config).to(device)


class Trained(nn.Module):
    """The UNet and the conditioner that is trained with it (paper Eq. 3), if one is."""

    def __init__(self, unet: UNet, conditioner: ConditionerModule | None) -> None:
        super().__init__()
        self.unet = unet
        self.conditioner = conditioner

    def forward(self, z_t: Tensor, timesteps: Tensor, given: dict[str, Tensor]) -> Tensor:
        """Return the raw prediction b c h w.

        given: `context` b n d, or what a conditioner makes it of (`ids` and `mask` b n, `labels` b); `concat` b k h w,
        or the label `map` b H W.
        """
        context, concat = given.get("context"), given.get("concat")
        if isinstance(self.conditioner, TextEncoder):
            context = self.conditioner([(given["ids"], given["mask"])]).context
        elif isinstance(self.conditioner, ClassEmbedder):
            context = self.conditioner(given["labels"])
        elif isinstance(self.conditioner, SpatialRescaler):
            concat = self.conditioner(_one_hot(given["map"], self.conditioner.config.in_channels))
        return Denoiser(self.unet, z_t.device, torch.float32)(z_t, timesteps, Inputs(context=context, concat=concat))


def _one_hot(label_map: Tensor, classes: int) -> Tensor:
    b, height, width = label_map.shape
    # torch's one_hot makes int64 first: three times the memory of what may be the largest tensor of a step.
    empty = torch.zeros(b, classes, height, width, device=label_map.device)
    return empty.scatter_(1, label_map[:, None], 1.0)


def condition_of(run: DiffusionRun, folder: Folder) -> Condition:
    """Return what a run is conditioned on.

    Raises:
        ConfigurationError: the encoder's checkpoint has no text encoder, or a class no picture to train on.
    """
    given = run.condition if isinstance(run, LdmRun) else None
    if given is None:
        return Condition()
    if isinstance(given, TextCondition):
        return _text(given)
    if isinstance(given, MapCondition):
        factor = load_first_stage(run.first_stage, data=False).config.factor
        return Condition(RescalerConfig(given.classes, given.channels, factor.bit_length() - 1), trained=True)
    _check_trained(folder)
    classes = len(folder.classes) + 1  # with that of no class
    if classes == IMAGENET:
        count = len(folder.classes)
        detail = f"{folder.path} has {count} labels, with that of no class {IMAGENET}: so many are read as ImageNet's, "
        detail += "which have none of no class; leave one out"
        raise ConfigurationError(detail, field="data.folder", value=count)
    return Condition(ClassConfig(classes, given.width), trained=True)


def _check_trained(folder: Folder) -> None:
    """Refuse classes all of whose pictures are held out: they would be served, and never trained."""
    untrained = sorted(set(folder.classes) - {str(item.label) for item in folder.items})
    if untrained:
        count, first = f"{len(untrained)} of {len(folder.classes)}", untrained[0]
        detail = f"data.held_out leaves no picture of {count} classes to train on, {first!r} first"
        raise ConfigurationError(detail, field="data.held_out", value=first)


def _text(given: TextCondition) -> Condition:
    if given.encoder is None:
        tokenizer = shipped_bert(given.window)
        tower = TowerConfig(
            kind="ldm",
            vocab_size=tokenizer.tokenizer.get_vocab_size(),
            width=given.width,
            layers=given.layers,
            heads=given.heads,
            head_dim=HEAD,
            mlp=4 * given.width,
            positions=given.window,
        )
        return Condition(TextConfig((tower,)), None, (tokenizer,), trained=True)
    checkpoint = load_checkpoint(given.encoder)
    found = checkpoint.config.conditioner
    if not isinstance(found, TextConfig) or len(checkpoint.tokenizers) != 1:
        detail = f"{given.encoder}: has no text encoder of one tower with a tokenizer"
        raise ConfigurationError(detail, field="condition.encoder", value=str(given.encoder))
    return Condition(found, fitted(checkpoint)["conditioner"], checkpoint.tokenizers, given.trained)


def model_config(run: DiffusionRun, first: FirstStage, condition: Condition) -> ModelConfig:
    """Put a model's configuration together.

    Raises:
        ConfigurationError: picture and first stage don't fit one another, or a crop is larger than a latent.
    """
    stage = first.config
    check_halved(run.data.size, stage.factor, len(run.unet.channels))
    side = run.data.size // stage.factor
    if isinstance(run, UpscalerRun) and max(run.crops, default=0) > side:
        detail = f"crops has {max(run.crops)}; latents of data.size {run.data.size} are {side} a side"
        raise ConfigurationError(detail, field="crops", value=max(run.crops), bound=side)
    kind = _concat(run)
    width = condition.config.width if isinstance(condition.config, TextConfig | ClassConfig) else None
    extra = {"mask-latent": 1 + stage.embed_dim, "latent-mask": 1 + stage.embed_dim, "low-res": 3}
    added = condition.config.out_channels if isinstance(condition.config, RescalerConfig) else extra.get(kind or "", 0)
    assert added is not None
    return ModelConfig(
        unet=run.unet.network(stage.embed_dim + added, stage.embed_dim, width),
        first_stage=stage,
        schedule=run.schedule.schedule().config,
        scale_factor=first.scale_factor,
        conditioner=condition.config,
        concat=kind,
        latent_size=side,
    )


def check_halved(size: int, factor: int, levels: int) -> None:
    """Check the side of pictures against a first stage of `factor` and a UNet of `levels`.

    Raises:
        ConfigurationError: it doesn't divide.
    """
    if size % (factor * 2 ** (levels - 1)):
        detail = f"data.size is {size}; first stage and UNet halve it {factor.bit_length() - 1} and "
        detail += f"{levels - 1} times, and each must come out even"
        raise ConfigurationError(detail, field="data.size", value=size)


def _concat(run: DiffusionRun) -> Concat | None:
    if not isinstance(run, LdmRun):
        return "low-res"
    return "map" if isinstance(run.condition, MapCondition) else run.concat


def pipeline(
    config: ModelConfig,
    unet: UNet,
    first: Autoencoder,
    conditioner: ConditionerModule | None,
    tokenizers: tuple[PromptTokenizer, ...],
    device: torch.device,
) -> LatentDiffusion:
    """Make the model that samples and encodes, of networks that are there."""
    denoiser = Denoiser(unet, device, torch.float32)
    return LatentDiffusion("training", config, NoiseSchedule(config.schedule), denoiser, first, conditioner, tokenizers)


def weights_digest(state: dict[str, Tensor]) -> str:
    """Return what tells one set of weights from another."""
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode() + state[key].detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def first_stage_of(path: Path) -> FirstStage:
    """Read the first stage, whose latents the run learns."""
    first = load_first_stage(path)
    return replace(first, state={key: value.float() for key, value in first.state.items()})
