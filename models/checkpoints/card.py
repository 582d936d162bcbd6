"""The model card that stands beside a checkpoint, as far as the weights determine it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any

from contract.card import CARD
from core.errors import CheckpointError
from models.checkpoints.checkpoint import Checkpoint
from models.checkpoints.files.weights import is_weights, read_json
from models.checkpoints.layouts.compvis.families import SD2, UNSURE, V_SIZE
from models.checkpoints.layouts.detect import load_checkpoint, single_file
from models.checkpoints.layouts.detected import (
    Detected,
    as_set,
    read_detected,
    save_detected,
    stamps,
    user_set,
    write_json,
)
from models.checkpoints.layouts.vae import vae_files, vae_of
from models.networks.conditioning import RescalerConfig, TextConfig
from models.pipeline.config import ModelConfig
from models.samplers import samplers_for
from models.schedule import NoiseSchedule, Prediction
from models.tokenizers.prompts import save_tokenizer

TOKENIZER = "tokenizer/tokenizer.json"
NO_TOKENIZER = "no tokenizer: put tokenizer.json beside it in a folder tokenizer/"
BLOCK = 1 << 20  # bytes read at a time
COMMON = (
    *("steps", "sampler", "eta", "seed", "num_images", "output_format", "priority", "deadline_ms"),
    *("determinism", "preview_every", "webhook_url"),
)
STEPS, UPSCALE_STEPS = 50, 100  # of the original scripts
XL_GUIDANCE, REFINER_STRENGTH = 5.0, 0.3  # of diffusers' pipelines of SDXL
GUIDANCE = {"clip": 7.5, "ldm": 5.0, "bert": 4.0}
EDIT_STEPS, IMAGE_GUIDANCE, DEPTH_STRENGTH = 100, 1.5, 0.8  # of the pipelines of InstructPix2Pix and depth
CLASS_GUIDANCE, UPSCALE_GUIDANCE = 3.0, 9.0
LCM_STEPS, LCM_GUIDANCE = 4, 8.5  # of the latent consistency pipeline
NOISE_LEVEL, MAX_NOISE_LEVEL = 20, 350  # of the SD x4 upscaler
DEFAULT_LATENT = 32  # height and width of training latents where no file says


def card_folder(path: Path) -> Path:
    """Return where a checkpoint's card is: its folder, for a file X.safetensors the folder X beside it."""
    return path.with_suffix("") if path.is_file() else path


def checkpoint_id(path: Path) -> str:
    """Return the card's id, or else the name of the folder or file."""
    card = card_folder(path) / CARD
    if card.is_file():
        return str(read_json(card).get("id", path.name))
    return path.stem if path.is_file() else path.name


def load_as_set(path: Path) -> Checkpoint:
    """Read a checkpoint as its card says that it is: what people have set there goes before what files tell.

    Raises:
        CheckpointError: naming the file, key or shape that doesn't fit.
    """
    checkpoint, said = load_checkpoint(path), as_set(card_folder(path)).get("prediction_type")
    return checkpoint if said is None else predicting(checkpoint, said)


def predicting(checkpoint: Checkpoint, prediction: Prediction) -> Checkpoint:
    """Return a checkpoint that predicts this; of one whose files don't say it, the size of training follows."""
    config = checkpoint.config
    guessed = checkpoint.prediction_assumed and config.latent_size == V_SIZE
    return replace(
        checkpoint,
        config=replace(
            config,
            schedule=replace(config.schedule, prediction=prediction),
            latent_size=SD2.latent_size(prediction) if guessed else config.latent_size,
        ),
        assumptions=tuple(note for note in checkpoint.assumptions if note != UNSURE),
        prediction_assumed=False,
    )


def weight_files(path: Path) -> list[Path]:
    """List the weight files of a folder in order of their relative names; a folder with none has its file beside it.

    Last comes what takes the first stage's place.
    """
    single = single_file(path)
    place = vae_of(card_folder(path), single)
    vae = vae_files(place) if place is not None else []
    if single is not None:
        return [single, *vae]
    inside = [file for file in path.rglob("*") if is_weights(file)]
    return sorted(inside, key=lambda file: file.relative_to(path).as_posix()) + vae


def weights_hash(path: Path) -> str:
    """Hash (SHA-256) the weight files of a folder in order of their relative names, or a single file."""
    return files_hash(weight_files(path))


def files_hash(files: Iterable[Path]) -> str:
    """Hash (SHA-256) files as if they were one, in their order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


def id_of(name: str, taken: Collection[str] = ()) -> str:
    """Make a model id of a name or path; one that is taken, or of a name without ASCII letters, ends in its hash."""
    model_id, digest = re.sub(r"[^A-Za-z0-9_-]+", "-", name), hashlib.sha256(name.encode()).hexdigest()
    if not re.search("[A-Za-z0-9]", model_id):
        model_id = f"model-{digest[:8]}"
    return f"{model_id}-{digest[:8]}" if model_id in taken else model_id


def write_card(
    checkpoint: Checkpoint, weights: Path, folder: Path, name: str, kept: Mapping[str, Any] | None = None
) -> Path:
    """Write card.json, and tokenizer.json where there is none, for weights at `weights`. Returns the card's path.

    `kept` are fields that people have set, which go before the detected ones; both are kept apart in detected.json.

    Raises:
        CheckpointError: the folder can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if checkpoint.tokenizers and not (folder / TOKENIZER).is_file():
            save_tokenizer(checkpoint.tokenizers[0], folder / "tokenizer")
        model_id, digest = id_of(name), weights_hash(weights)
        found = default_card(checkpoint, model_id, digest)
        files = stamps(weight_files(weights), folder)
        write_json(folder / CARD, {**found, **(kept or {}), "id": model_id, "hash": digest})
        save_detected(folder, Detected(found, files, notes_of(checkpoint)))
    except OSError as error:
        raise CheckpointError(f"{folder / CARD}: can't be written ({error})") from error
    return folder / CARD


def settle(folder: Path, checkpoint: Checkpoint) -> None:
    """Write what was found out since a card was written into it, but for the fields that people have set.

    A folder that can't be written is left as it is: the next load finds out again.
    """
    record = read_detected(folder)
    if record is None:
        return
    found = default_card(checkpoint, str(record.card.get("id")), str(record.card.get("hash")))
    with suppress(OSError):
        write_json(folder / CARD, {**found, **user_set(folder)})
        decided = {"prediction_type": found["prediction_type"]}
        save_detected(folder, Detected(found, record.files, notes_of(checkpoint), decided))


def default_card(checkpoint: Checkpoint, model_id: str, digest: str) -> dict[str, Any]:
    """Make a card's fields, with the defaults of the original scripts and an empty licence for people to fill in."""
    config, tasks = checkpoint.config, tasks_of(checkpoint.config)
    samplers, factor = samplers_for(NoiseSchedule(config.schedule)), config.first_stage.factor
    return {
        "id": model_id,
        "description": " ".join((describe(config), *notes_of(checkpoint))),
        "hash": digest,
        "tasks": tasks,
        "native_size": (config.latent_size or DEFAULT_LATENT) * factor,
        "latent_factor": factor,
        "scale": factor if "upscale" in tasks else 1,
        "defaults": _defaults(checkpoint, samplers),
        "fields": _fields(config, tasks),
        "prediction_type": config.schedule.prediction,
        "samplers": samplers,
        "licence": "unknown",
        **_told_of_texts(checkpoint),
        **_told_of_others(config),
    }


def _defaults(checkpoint: Checkpoint, samplers: Sequence[str]) -> dict[str, Any]:
    """What a request gets that doesn't say; what is known of the kind goes before what is usual."""
    config, variant = checkpoint.config, checkpoint.variant
    small = "upscale" in tasks_of(config) and config.low_res_schedule is None
    found: dict[str, Any] = {
        "steps": UPSCALE_STEPS if small else STEPS,
        "sampler": _sampler(checkpoint, samplers),
        "guidance_scale": _guidance(config),
        **_noise_levels(checkpoint, samplers),
    }
    if variant is not None:
        found |= {"steps": variant.steps, "guidance_scale": 1.0}
    if config.refines:
        found["img2img_strength"] = REFINER_STRENGTH
    if config.concat == "source":
        found |= {"steps": EDIT_STEPS, "img2img_strength": 1.0, "image_guidance_scale": IMAGE_GUIDANCE}
    if config.concat == "depth":
        found["img2img_strength"] = DEPTH_STRENGTH
    if config.zeros_for_no_prompt:
        found["negative_prompt"] = None
    if config.low_res_schedule is not None:
        found["noise_level"] = NOISE_LEVEL
    if config.unet.guidance_dim is not None:
        found |= {"steps": LCM_STEPS, "guidance_scale": LCM_GUIDANCE}
    return found


def _told_of_texts(checkpoint: Checkpoint) -> dict[str, Any]:
    width, tokenizers = checkpoint.config.unet.context_dim, checkpoint.tokenizers
    told = {"token_window": tokenizers[0].window, "tokenizer": TOKENIZER} if tokenizers else {}
    return told if width is None else {**told, "context_width": width}


def _told_of_others(config: ModelConfig) -> dict[str, Any]:
    """What else the network is conditioned on, where it is: levels of noise, guidance, classes, maps, boxes."""
    told: dict[str, Any] = {}
    if config.low_res_schedule is not None:
        told["noise_levels"] = MAX_NOISE_LEVEL + 1
    if config.unet.guidance_dim is not None:
        told["guidance_embedded"] = True
    if config.classes is not None:
        told["classes"] = config.classes
    if isinstance(config.conditioner, RescalerConfig):
        told["map_classes"] = config.conditioner.in_channels
    if config.layout is not None:
        told["layout"] = {"vocabulary": config.layout.vocab_size, "length": config.layout.positions}
    return told


def _noise_levels(checkpoint: Checkpoint, samplers: Collection[str]) -> dict[str, Any]:
    """The rest of what the authors chose with their sampler, where it is one of ours."""
    if checkpoint.variant is not None or checkpoint.sampler not in samplers:
        return {}
    chosen = {"schedule": checkpoint.levels, "eta": checkpoint.eta or None}
    return {name: value for name, value in chosen.items() if value is not None}


def is_mute(checkpoint: Checkpoint) -> bool:
    """Tell whether it reads text, and nothing says how a text becomes tokens."""
    config = checkpoint.config
    return isinstance(config.conditioner, TextConfig) and config.layout is None and not checkpoint.tokenizers


def notes_of(checkpoint: Checkpoint) -> tuple[str, ...]:
    """List what was assumed, for people."""
    samplers = samplers_for(NoiseSchedule(checkpoint.config.schedule))
    variant = checkpoint.variant
    told = () if variant is None else (variant.note(_sampler(checkpoint, samplers)),)
    return (*checkpoint.assumptions, *told)


def _sampler(checkpoint: Checkpoint, samplers: Sequence[str]) -> str:
    """Choose a distilled model's sampler, else the authors', else the first that runs on the schedule."""
    own = checkpoint.variant.samplers if checkpoint.variant is not None else ()
    chosen = (*own, checkpoint.sampler)
    return next((name for name in chosen if name is not None and name in samplers), samplers[0])


def tasks_of(config: ModelConfig) -> tuple[str, ...]:
    """List what a model of this shape can be asked for; without mask channels the known region is blended in."""
    if config.concat == "low-res":
        return ("upscale",)
    if config.concat == "map":
        return ("semantic2img",)
    if config.classes is not None:
        return ("class2img",)
    if config.layout is not None:
        return ("layout2img",)
    if config.concat == "latent-mask":
        return ("inpaint",)
    if config.concat == "depth":
        return ("depth2img",)
    if config.refines or config.concat == "source":
        return ("img2img",)
    return ("txt2img", "inpaint", "img2img")


def describe(config: ModelConfig) -> str:
    """Describe a model to people, in one line."""
    names = {TextConfig: "text", RescalerConfig: "label maps", NoneType: "nothing"}
    by = "class labels" if config.classes is not None else names[type(config.conditioner)]
    by = "boxes" if config.layout is not None else by
    if config.unet.added_dim is not None:
        sizes = "sizes and a score (Stable Diffusion XL refiner)" if config.refines else "sizes (Stable Diffusion XL)"
        by = f"text and {sizes}"
    concat = {
        "mask-latent": ", inpainting",
        "latent-mask": ", inpainting",
        "low-res": ", upscaling",
        "source": ", changing a picture as told (InstructPix2Pix)",
        "depth": ", led by depth",
    }
    first = config.first_stage
    return (
        f"Latent diffusion conditioned on {by}{concat.get(config.concat or '', '')}; "
        f"{first.kind.upper()} first stage f={first.factor}, {first.embed_dim} channels."
    )


def _guidance(config: ModelConfig) -> float:
    if config.unet.added_dim is not None:
        return XL_GUIDANCE
    if config.layout is not None:
        return 1.0
    if isinstance(config.conditioner, TextConfig):
        return UPSCALE_GUIDANCE if config.concat == "low-res" else GUIDANCE[config.conditioner.kind]
    return CLASS_GUIDANCE if config.null_class is not None else 1.0


def _fields(config: ModelConfig, tasks: tuple[str, ...]) -> tuple[str, ...]:
    reads = isinstance(config.conditioner, TextConfig) and config.layout is None
    text = ("prompt", "negative_prompt") if reads else ()
    guided = ("guidance_scale",) if _guidance(config) != 1.0 else ()
    told = _told(config)
    by_task = {
        "txt2img": ("width", "height"),
        "inpaint": ("image", "mask", "mask_mode", "feather", "strength"),
        "img2img": ("image", "image_guidance_scale" if config.concat == "source" else "strength"),
        "upscale": ("image", *(("noise_level",) if config.low_res_schedule is not None else ())),
        "class2img": ("class_id", "label", "width", "height"),
        "semantic2img": ("image",),
        "depth2img": ("image", "depth", "strength"),
        "layout2img": ("boxes", "crop", "tokens", "width", "height"),
    }
    fields = (
        *text,
        *text_fields(config),
        *guided,
        *told,
        *(field for task in tasks for field in by_task[task]),
        *COMMON,
    )
    return tuple(dict.fromkeys(fields))


def text_fields(config: ModelConfig) -> tuple[str, ...]:
    """List what is said of how texts are read, which CLIP alone can do in more than one way."""
    text = config.conditioner
    return ("prompt_syntax", "clip_skip") if isinstance(text, TextConfig) and text.kind == "clip" else ()


def _told(config: ModelConfig) -> tuple[str, ...]:
    """List what SDXL is told of the picture, and how its models share the way to it."""
    if config.unet.added_dim is None:
        return ()
    told = ("aesthetic_score", "negative_aesthetic_score") if config.refines else ("target_size",)
    return ("original_size", "crop", *told, "guidance_rescale", "denoising_start", "denoising_end")
