"""One latent diffusion checkpoint, resident in memory: conditioning, denoiser and first stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from core.errors import CheckpointError
from models.inputs import Inputs
from models.networks.adapters import RowAdapters
from models.networks.autoencoder import Autoencoder, TinyDecoder
from models.networks.conditioning import (
    ClassEmbedder,
    ConditionerModule,
    Encoded,
    SpatialRescaler,
    TextEncoder,
    Tokens,
    Told,
)
from models.networks.controlnet import RowControls
from models.networks.tiling import decode_tiled, encode_tiled
from models.networks.unet import UNet, timestep_embedding
from models.pipeline.config import ModelConfig
from models.pipeline.denoiser import Denoiser
from models.schedule import NoiseSchedule
from models.tokenizers.prompts import PromptTokenizer

TILE = 512  # pixels a side; larger pictures go through the first stage in tiles, to bound its memory
STRIP = 8  # rows of a rescaled label map made at a time: 182 classes of a large map, one-hot, are gigabytes
DEPTH_RANGE = 1e-6  # the least difference of depths that is told from none
BLANKS_KEPT = 16  # sizes; a latent of 128×128 is 320 KB


@dataclass(slots=True)
class LatentDiffusion:
    """Everything of one checkpoint. Latents are scaled: unit variance, as the UNet sees them.

    Callers choose whether gradients are recorded: the engine and the sampling code run in `torch.inference_mode`.
    `dtype` is that of the weights; a first stage that overflows in half precision has float32 (`first_stage_dtype`).
    """

    id: str
    config: ModelConfig
    schedule: NoiseSchedule
    denoiser: Denoiser
    first_stage: Autoencoder
    conditioner: ConditionerModule | None
    tokenizers: tuple[PromptTokenizer, ...]  # of each text tower; none where prompts can't be encoded
    tiny_decoder: TinyDecoder | None = None  # of previews
    _blank: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    @property
    def latent_factor(self) -> int:
        return self.config.first_stage.factor

    @property
    def latent_channels(self) -> int:
        return self.config.first_stage.embed_dim

    @property
    def scale_factor(self) -> float:
        return self.config.scale_factor

    @property
    def unet(self) -> UNet:
        return self.denoiser.unet

    @property
    def device(self) -> torch.device:
        return self.denoiser.device

    @property
    def dtype(self) -> torch.dtype:
        return self.denoiser.dtype

    @property
    def first_stage_dtype(self) -> torch.dtype:
        return self.config.first_stage_dtype(self.dtype)

    @property
    def token_window(self) -> int | None:
        return self.tokenizers[0].window if self.tokenizers else None

    def encode_prompts(self, prompts: Sequence[str]) -> Encoded:
        """Encode prompts, each cut or padded to the window.

        Raises:
            CheckpointError: the checkpoint has no text encoder or no tokenizer.
        """
        if not self.tokenizers:
            raise CheckpointError(f"{self.id}: no tokenizer; prompts can't be encoded")
        return self.encode_tokens([tokenizer(prompts) for tokenizer in self.tokenizers])

    def encode_tokens(self, tokens: Sequence[Tokens], told: Sequence[Told] | None = None) -> Encoded:
        """Encode token numbers and mask, both b n, of every tower, which is `told` more.

        Raises:
            CheckpointError: the checkpoint has no text encoder.
        """
        if not isinstance(self.conditioner, TextEncoder):
            raise CheckpointError(f"{self.id}: no text encoder")
        placed = [(ids.to(self.device), None if mask is None else mask.to(self.device)) for ids, mask in tokens]
        return self.conditioner(placed, told)  # type: ignore[no-any-return]

    def no_prompt(self) -> Encoded:
        """Return what stands for no prompt at all where the model was trained with that: zeros, b = 1.

        Raises:
            CheckpointError: the checkpoint has no text encoder or no tokenizer.
        """
        if not isinstance(self.conditioner, TextEncoder) or self.token_window is None:
            raise CheckpointError(f"{self.id}: no text encoder or no tokenizer")
        config = self.conditioner.config
        zeros = partial(torch.zeros, device=self.device, dtype=self.dtype)
        pooled = None if config.pooled is None else zeros(1, config.pooled)
        return Encoded(zeros(1, self.token_window, config.width), pooled)

    def added(self, pooled: Tensor, numbers: Tensor) -> Tensor:
        """Return the vector that is added to the time embedding, b p: pooled text b q, then the sinusoids of k numbers.

        numbers: b k, the picture's sizes, crop or score in the network's order.
        """
        dim = self.config.unet.added_sinusoids
        sinusoids = rearrange(timestep_embedding(numbers.flatten(), dim), "(b k) d -> b (k d)", b=len(numbers))
        return torch.cat([pooled, sinusoids.to(pooled)], dim=1)

    def encode_labels(self, labels: Tensor) -> Tensor:
        """Embed class labels b as context b 1 d; the last class is the null class.

        Raises:
            CheckpointError: the checkpoint is not class-conditional.
        """
        if not isinstance(self.conditioner, ClassEmbedder):
            raise CheckpointError(f"{self.id}: no class embedder")
        return self.conditioner(labels.to(self.device))  # type: ignore[no-any-return]

    def encode_images(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Encode x (b 3 H W in [−1, 1]), scaled, to b c h w: KL the mode, or a sample with `noise`; VQ unquantised."""
        return self._encode(x, noise) * self.scale_factor

    def _encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        x = x.to(self.device, self.first_stage_dtype)
        noise = None if noise is None else noise.to(x)
        if max(x.shape[2:]) > TILE:
            return encode_tiled(self.first_stage, x, TILE, noise)
        return self.first_stage.encode(x, noise)

    def decode(self, z: Tensor) -> Tensor:
        """Decode scaled latents b c h w to pictures b 3 H W, about [−1, 1] and not clamped."""
        z = z.to(self.device, self.first_stage_dtype) / self.scale_factor
        if max(z.shape[2:]) * self.latent_factor > TILE:
            return decode_tiled(self.first_stage, z, TILE)
        return self.first_stage.decode(z)

    def preview(self, z: Tensor) -> Tensor:
        """Decode scaled latents b c h w as `decode` does, but roughly where there is a small decoder for that."""
        return self.decode(z) if self.tiny_decoder is None else self.tiny_decoder(self._placed(z))

    def predict(
        self,
        z_t: Tensor,
        timesteps: Tensor,
        inputs: Inputs,
        adapters: RowAdapters | None = None,
        controls: RowControls | None = None,
        *,
        exact: bool = False,
    ) -> Tensor:
        """Return the raw network output b c h w, float32 (eps, v or x0: `config.schedule.prediction`).

        Its arguments are those of `Denoiser`.
        """
        return self.denoiser(z_t, timesteps, inputs, adapters, controls, exact=exact)

    def inpaint_concat(self, image: Tensor, mask: Tensor, cells: Tensor | None = None) -> Tensor:
        """Return what an inpainting UNet reads beside z_t, b k h w.

        image: b 3 H W in [−1, 1], H and W multiples of f; mask: b 1 H W, ≥ 0.5 where it is to be repainted; cells: the
        same of latents, b 1 h w; None: every f-th pixel of the mask.

        Raises:
            CheckpointError: the UNet takes no mask.
        """
        hole = (mask >= 0.5).to(image.dtype)
        size = (image.shape[2] // self.latent_factor, image.shape[3] // self.latent_factor)
        small = F.interpolate(hole, size=size, mode="nearest") if cells is None else cells
        small = small.to(self.device, self.first_stage_dtype)  # b 1 h w
        if self.config.concat == "mask-latent":
            return torch.cat([small, self.encode_images(image * (1 - hole))], dim=1)
        if self.config.concat == "latent-mask":
            # The original masks in [0, 1], so that the hole is black, not grey.
            masked = (image + 1) * (1 - hole) - 1
            return torch.cat([self._encode(masked), 2 * small - 1], dim=1)
        raise CheckpointError(f"{self.id}: the UNet takes no mask")

    def blank_concat(self, height: int, width: int) -> Tensor:
        """Return `inpaint_concat` of a wholly masked picture, 1 k h w at this latent size; kept for the next call."""
        key = (height, width)
        if key not in self._blank:
            if len(self._blank) >= BLANKS_KEPT:
                del self._blank[next(iter(self._blank))]
            f = self.latent_factor
            image, mask = torch.zeros(1, 3, height * f, width * f), torch.ones(1, 1, height * f, width * f)
            self._blank[key] = self.inpaint_concat(image, mask)
        return self._blank[key]

    def low_res_concat(self, image: Tensor, level: int = 0, noise: Tensor | None = None) -> Tensor:
        """Return the small picture, b 3 h w in [−1, 1], as an upscaling UNet reads it beside z_t.

        Checkpoints with noise levels add noise of training timestep `level`.

        Raises:
            CheckpointError: the UNet takes no small picture.
        """
        if self.config.concat != "low-res":
            raise CheckpointError(f"{self.id}: the UNet takes no low-resolution picture")
        x = self._placed(image)
        if self.config.low_res_schedule is None or noise is None:
            return x
        signal = float(NoiseSchedule(self.config.low_res_schedule).alphas_cumprod[level])
        return x * math.sqrt(signal) + self._placed(noise) * math.sqrt(1 - signal)

    def map_concat(self, label_map: Tensor) -> Tensor:
        """Return a label map b H W (class numbers) as a semantic UNet reads it beside z_t, b k h w.

        Raises:
            CheckpointError: the UNet takes no label map.
        """
        if not isinstance(self.conditioner, SpatialRescaler):
            raise CheckpointError(f"{self.id}: the UNet takes no label map")
        config = self.conditioner.config
        halves = config.multiplier == 0.5 and config.method != "bicubic"  # each 2×2 block by itself
        strip = STRIP * 2**config.stages if halves else label_map.shape[1]
        return torch.cat(
            [self._rescaled(self.conditioner, rows) for rows in torch.split(label_map, strip, dim=1)], dim=2
        )

    def source_concat(self, image: Tensor) -> Tensor:
        """Return the picture to be changed, b 3 H W in [−1, 1], as InstructPix2Pix reads it beside z_t: b c h w.

        It is the mode of the first stage's posterior and isn't scaled (Brooks et al. 2023, §3.2, as their code has it).

        Raises:
            CheckpointError: the UNet takes no picture to be changed.
        """
        if self.config.concat != "source":
            raise CheckpointError(f"{self.id}: the UNet takes no picture to be changed")
        return self._encode(image)

    def depth_concat(self, depth: Tensor) -> Tensor:
        """Return depth b 1 H W of any scale, the nearer the larger, as a depth UNet reads it beside z_t: b 1 h w.

        Each picture's own smallest and largest value become −1 and 1.

        Raises:
            CheckpointError: the UNet takes no depth.
        """
        if self.config.concat != "depth":
            raise CheckpointError(f"{self.id}: the UNet takes no depth")
        size = (depth.shape[2] // self.latent_factor, depth.shape[3] // self.latent_factor)
        small = F.interpolate(depth, size=size, mode="bicubic", align_corners=False)  # b 1 h w
        low, high = small.amin((1, 2, 3), keepdim=True), small.amax((1, 2, 3), keepdim=True)
        # What is the same everywhere at this size says nothing: all of it is −1, and not 0/0.
        return self._placed(2.0 * (small - low) / (high - low).clamp(min=DEPTH_RANGE) - 1.0)

    def _rescaled(self, rescaler: SpatialRescaler, label_map: Tensor) -> Tensor:
        labels = label_map.long().to(self.device)[:, None]  # b 1 H W
        b, _, height, width = labels.shape
        one_hot = torch.zeros(b, rescaler.config.in_channels, height, width, device=self.device, dtype=self.dtype)
        return rescaler(one_hot.scatter_(1, labels, 1.0))  # type: ignore[no-any-return]

    def _placed(self, x: Tensor) -> Tensor:
        return x.to(self.device, self.dtype)
