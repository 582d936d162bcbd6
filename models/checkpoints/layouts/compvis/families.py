"""What published families have in common and no file says: head counts, scale factor, schedule, kind of prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from models.schedule import Prediction, ScheduleConfig

NORM_GROUPS = 32  # of UNets and first stages
SD2_EPS_STEP = 875_000  # global_step of the 512-base models, which predict eps
V_SIZE = 96
SD2_EPS_CHANNELS = (9, 5)  # of SD 2's models of inpainting and depth, which all predict eps
EDIT_CHANNELS = 8  # of InstructPix2Pix: z_t and the picture's latent
LAYOUT_TOKENS = 8192  # of LDM's layout models: corners of boxes and classes
UNSURE = (
    "prediction_type: eps or v can't be told from the file; v is assumed until a worker that loads it has asked the "
    "network. What you set in card.json goes before it"
)


@dataclass(frozen=True, slots=True)
class Family:
    """Defaults of one family; a config beside the file goes before them."""

    name: str
    num_heads: int = -1
    num_head_channels: int = -1
    scale_factor: float = 1.0
    betas: tuple[float, float] = (0.0015, 0.0195)
    ema: bool = True
    known_prediction: Prediction | None = "eps"
    size: int = 64  # of training latents
    xl: bool = False

    def heads(self) -> Mapping[str, Any]:
        return {"num_heads": self.num_heads, "num_head_channels": self.num_head_channels}

    def schedule(self) -> ScheduleConfig:
        return ScheduleConfig(beta_start=self.betas[0], beta_end=self.betas[1])

    def told(self, global_step: int | None) -> Prediction | None:
        """Tell eps from v; None: SD 2's models of both have the same keys, and only one training step is known."""
        return "eps" if self.known_prediction is None and global_step == SD2_EPS_STEP else self.known_prediction

    def latent_size(self, prediction: Prediction) -> int:
        """Return the training latents' side; SD 2's v models were trained at 768 px."""
        return V_SIZE if self.known_prediction is None and prediction == "v" else self.size

    def assumptions(self) -> tuple[str, ...]:
        """List what was taken from the family, for people to read."""
        heads = f"{self.num_heads} heads" if self.num_heads > 0 else f"{self.num_head_channels} channels a head"
        return (f"{self.name}: {heads}, as no config.yaml is beside the file",)


SD1 = Family("Stable Diffusion 1", num_heads=8, scale_factor=0.18215, betas=(0.00085, 0.012), ema=False)
SD1_EDIT = replace(SD1, name="InstructPix2Pix", ema=True)  # as its authors' scripts draw
SD2 = Family(
    "Stable Diffusion 2",
    num_head_channels=64,
    scale_factor=0.18215,
    betas=(0.00085, 0.012),
    ema=False,
    known_prediction=None,
)
SD2_EPS = replace(SD2, name="Stable Diffusion 2 inpainting or depth", known_prediction="eps")
SD_X4 = Family(
    "Stable Diffusion x4 upscaler",
    num_heads=8,
    scale_factor=0.08333,
    betas=(0.0001, 0.02),
    ema=False,
    known_prediction="v",
    size=128,
)
SDXL = Family(
    "Stable Diffusion XL",
    num_head_channels=64,
    scale_factor=0.13025,
    betas=(0.00085, 0.012),
    ema=False,
    size=128,
    xl=True,
)
LDM_TEXT_LARGE = Family(
    "LDM text2img-large", num_heads=8, scale_factor=0.18215, betas=(0.00085, 0.012), ema=False, size=32
)
LDM_TEXT = Family("LDM text to image", num_head_channels=32)
LDM_LAYOUT = Family("LDM layout to image", num_head_channels=32, betas=(0.0015, 0.0205))
LDM_CLASS_V2 = Family("LDM cin256-v2", num_heads=1)
LDM_CLASS = Family("LDM cin256", num_head_channels=32, size=32)
LDM_SEMANTIC = Family("LDM semantic synthesis", num_heads=8, betas=(0.0015, 0.0205))
LDM_UPDOWN = Family("LDM with residual resampling", num_heads=8)
LDM_PLAIN = Family("LDM", num_head_channels=32)


def family_of(unet: Mapping[str, Tensor], conditioner: Mapping[str, Tensor]) -> Family:
    """Tell the family by conditioner first, then by what the UNet's keys show."""
    if any(key.startswith("embedders.") for key in conditioner):
        return SDXL
    if any(key.startswith("model.transformer.") for key in conditioner):
        return SD_X4 if "label_emb.weight" in unet else SD2_EPS if _channels(unet) in SD2_EPS_CHANNELS else SD2
    if any(key.startswith(("transformer.text_model.", "transformer.embeddings.")) for key in conditioner):
        return SD1_EDIT if _channels(unet) == EDIT_CHANNELS else SD1
    if "transformer.token_emb.weight" in conditioner:
        vocabulary, width = conditioner["transformer.token_emb.weight"].shape
        if vocabulary == LAYOUT_TOKENS:
            return LDM_LAYOUT
        wide = width >= 1280
        return LDM_TEXT_LARGE if wide else LDM_TEXT
    if "embedding.weight" in conditioner:
        # The later model counts a null class, 1001.
        return LDM_CLASS_V2 if len(conditioner["embedding.weight"]) % 10 == 1 else LDM_CLASS
    if "channel_mapper.weight" in conditioner:
        return LDM_SEMANTIC
    resampled = not any(".op." in key for key in unet)
    return LDM_UPDOWN if resampled else LDM_PLAIN


def _channels(unet: Mapping[str, Tensor]) -> int | None:
    first = unet.get("input_blocks.0.0.weight")
    return None if first is None or first.ndim < 2 else first.shape[1]
