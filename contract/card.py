"""Model cards: what a checkpoint can do, and what a request that doesn't say gets."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from contract.base import Kind, Wire
from contract.samplers import Schedule

CARD = "card.json"
ADD_ON_CARD = ".card.json"  # after the name of a LoRA, ControlNet or embedding, beside its file
LORA_FOLDERS = frozenset(("lora", "loras"))  # of LATENTD_MODELS_DIR, whatever the case
CONTROLNET_FOLDERS = frozenset(("controlnet", "controlnets"))
EMBEDDING_FOLDERS = frozenset(("embeddings",))
# Folders of LATENTD_MODELS_DIR that hold no models, but what is added to those and VAEs in place of theirs.
RESERVED = LORA_FOLDERS | CONTROLNET_FOLDERS | EMBEDDING_FOLDERS | {"vae", "vae-approx", "vae_approx"}
ID = r"^[A-Za-z0-9_-]+$"
DEPTH = 4  # of folders in folders

C = TypeVar("C", bound=Wire)


class CardDefaults(Wire):
    """What a request of this model gets where it says nothing."""

    steps: int
    sampler: str
    guidance_scale: float = 1.0
    eta: float = 0.0
    schedule: Schedule | None = Field(default=None, exclude_if=lambda schedule: schedule is None)
    strength: float = 1.0
    img2img_strength: float = 0.75
    noise_level: int | None = None
    image_guidance_scale: float | None = Field(default=None, exclude_if=lambda scale: scale is None)
    # null: no prompt at all, which the model was trained with and which isn't the empty one.
    negative_prompt: str | None = Field(default="", exclude_if=lambda text: text == "")

    def strength_of(self, kind: Kind) -> float:
        """Return the strength that a request of this kind gets."""
        return self.img2img_strength if kind in ("img2img", "depth2img") else self.strength


class LayoutCard(Wire):
    """The row of numbers that a layout model reads: three for each box, and two of the crop where two are left."""

    vocabulary: int = Field(ge=2, description="Numbers are below it; the last one stands where there is no box.")
    length: int = Field(ge=1, description="Numbers in a row.")

    @property
    def objects(self) -> int:
        """How many boxes it has room for."""
        return self.length // 3

    @property
    def crops(self) -> bool:
        """Whether its end says which part of the scene is shown."""
        return self.length % 3 == 2

    @property
    def sections(self) -> int:
        """Corners are told on a square grid with as many points a side."""
        return math.isqrt(self.vocabulary)

    @property
    def none(self) -> int:
        """What stands where there is no box."""
        return self.vocabulary - 1


class Style(Wire):
    """Words that give a model's pictures a look; the page offers them beside the prompt."""

    name: str = Field(min_length=1, max_length=40, description="What people call it.")
    suffix: str = Field(min_length=1, max_length=200, description="What follows the prompt, as in training.")


class ModelCard(Wire):
    """`card.json` beside each checkpoint; workers publish it to Redis, the gateway resolves requests by it."""

    id: str = Field(pattern=ID)
    description: str
    hash: str = Field(description="SHA-256 over the weight files, in order of their names.")
    tasks: tuple[Kind, ...]
    native_size: int = Field(description="Width and height of the training pictures, in pixels.")
    latent_factor: int = Field(description="Pixels of the decoded picture per latent pixel, f.")
    scale: int = Field(default=1, description="How many times larger than its input an upscaler's answer is.")
    defaults: CardDefaults
    fields: tuple[str, ...] = Field(description="Request fields that this model uses.")
    prediction_type: Literal["eps", "v", "x0"]
    vae: str | None = Field(
        default=None,
        exclude_if=lambda name: name is None,
        description="Name of the first stage in the model's place, beside it or in the folder VAE.",
    )
    preview_decoder: str | None = Field(
        default=None,
        exclude_if=lambda name: name is None,
        description="Name of the tiny decoder (TAESD) that previews are made by instead of the first stage.",
    )
    samplers: tuple[str, ...]
    token_window: int | None = Field(default=None, description="Tokens of a prompt that are read, specials included.")
    tokenizer: str | None = Field(default=None, description="tokenizer.json, relative to the card.")
    guidance_embedded: bool = Field(
        default=False,
        exclude_if=lambda embedded: not embedded,
        description="The network reads guidance_scale itself (latent consistency models): one row a step.",
    )
    context_width: int | None = Field(
        default=None, exclude_if=lambda width: width is None, description="Width of what cross-attention reads."
    )
    classes: int | None = Field(default=None, description="class_id is below it.")
    class_names: tuple[str, ...] | None = Field(default=None, description="Names by class_id, for `label`.")
    map_classes: int | None = Field(default=None, description="Pixels of a label map are below it.")
    layout: LayoutCard | None = Field(
        default=None, exclude_if=lambda layout: layout is None, description="What boxes become, for `layout2img`."
    )
    noise_levels: int | None = Field(default=None, description="noise_level is below it.")
    styles: tuple[Style, ...] = Field(
        default=(),
        exclude_if=lambda styles: not styles,
        description="Looks that the model knows by words, those first that prompts name first.",
    )
    licence: str
    attribution: tuple[str, ...] = ()


class AddOnCard(Wire):
    """What all have that is added to a model: workers publish cards to Redis, the gateway checks requests by them."""

    id: str = Field(pattern=ID)
    description: str = ""
    hash: str = Field(description="SHA-256 of the file, or of PEFT's two.")
    family: str | None = Field(default=None, description="sd1, sd2, sdxl; null where neither names nor widths tell.")
    context_width: int | None = Field(default=None, description="It fits models whose context is as wide.")
    licence: str = "unknown"
    unserved: str | None = Field(default=None, description="Why it can't be used: LoHa, DoRA, a broken file.")

    @property
    def called(self) -> str:
        """What requests call it by."""
        return self.id


class LoraCard(AddOnCard):
    """What a LoRA is for."""

    rank: int = Field(default=0, description="Of its widest layer.")
    parts: tuple[Literal["unet", "text"], ...] = Field(default=(), description="The networks that it changes.")
    trigger_words: tuple[str, ...] = Field(default=(), description="What prompts name to call for it.")
    names: tuple[str, ...] = Field(
        default=(),
        exclude_if=lambda names: not names,
        description="What `<lora:…>` may call it beside its id: its file's name, and the one that its training gave.",
    )


class ControlNetCard(AddOnCard):
    """What a ControlNet is for; which maps it reads, its name says."""


class EmbeddingCard(Wire):
    """What a textual inversion is for; workers publish it to Redis, the gateway checks requests by it."""

    name: str = Field(min_length=1, max_length=128, description="What prompts call it by: the file's, in any case.")
    description: str = ""
    hash: str = Field(description="SHA-256 of the file.")
    family: str | None = Field(default=None, description="sd1, sd2, sdxl; null where the widths don't tell.")
    widths: tuple[int, ...] = Field(default=(), description="It fits models whose text towers are as wide.")
    vectors: int = Field(default=0, description="Tokens whose place it takes in a prompt.")
    licence: str = "unknown"
    unserved: str | None = Field(default=None, description="Why it can't be used: a broken file.")

    @property
    def called(self) -> str:
        """What prompts call it by."""
        return self.name


class Installed(Wire):
    """`NAME.card.json` beside the file NAME: size and time of change tell when that was replaced."""

    file: str
    size: int
    changed_ns: int

    def _narrowed(self, form: type[C], **told: object) -> C:
        """Return the card that others need, without what is of the file alone."""
        return form.model_validate({name: getattr(self, name) for name in form.model_fields} | told)


class InstalledLora(Installed, LoraCard):
    """A LoRA's card beside its file."""

    @property
    def card(self) -> LoraCard:
        """What others need to know; the file's name comes first."""
        return self._narrowed(LoraCard, names=tuple(dict.fromkeys((Path(self.file).stem, *self.names))))


class InstalledControlNet(Installed, ControlNetCard):
    """A ControlNet's card beside its file."""

    @property
    def card(self) -> ControlNetCard:
        """What others need to know."""
        return self._narrowed(ControlNetCard)


class InstalledEmbedding(Installed, EmbeddingCard):
    """An embedding's card beside its file."""

    @property
    def card(self) -> EmbeddingCard:
        """What others need to know."""
        return self._narrowed(EmbeddingCard)


def model_folders(models_dir: Path) -> Iterator[Path]:
    """Yield a models directory and the folders below it, in order of their names, but for hidden, reserved and closed
    ones and links that lead back up.
    """
    return (folder for folder in _folders(models_dir, DEPTH, RESERVED) if not is_closed(folder))


def closed_folders(models_dir: Path) -> list[Path]:
    """List the folders below a models directory, reserved ones too, that this process can't look into."""
    return [folder for folder in _folders(models_dir, DEPTH, frozenset()) if is_closed(folder)]


def is_closed(folder: Path) -> bool:
    """Tell folders that this process may not list, or whose files it may not open."""
    return not os.access(folder, os.R_OK | os.X_OK, effective_ids=True)


def _folders(folder: Path, depth: int, skipped: Collection[str]) -> Iterator[Path]:
    if not _is_folder(folder):
        return
    yield folder
    for entry in sorted(folder.iterdir()) if depth and not is_closed(folder) else ():
        if entry.name.startswith(".") or entry.name.lower() in skipped or not _is_folder(entry):
            continue
        if is_closed(entry) or not (entry.is_symlink() and folder.resolve().is_relative_to(entry.resolve())):
            yield from _folders(entry, depth - 1, skipped)


def _is_folder(path: Path) -> bool:
    """Tell folders, links into closed ones among them: what those lead to can't be told, nor looked into."""
    try:
        return path.is_dir()
    except PermissionError:
        return True


def card_files(models_dir: Path) -> list[Path]:
    """List the cards below a models directory; what isn't a regular file is none."""
    folders = (folder for folder in model_folders(models_dir) if folder != models_dir)
    return [folder / CARD for folder in folders if (folder / CARD).is_file()]


def add_on_folders(models_dir: Path, names: Collection[str]) -> Iterator[Path]:
    """Yield the folders of a models directory with one of these names in any case, and those below them."""
    for entry in sorted(models_dir.iterdir()) if models_dir.is_dir() and not is_closed(models_dir) else ():
        if entry.name.lower() in names:
            yield from model_folders(entry)


def add_on_card_files(models_dir: Path, names: Collection[str]) -> list[Path]:
    """List the cards in those folders."""
    entries = (entry for folder in add_on_folders(models_dir, names) for entry in sorted(folder.iterdir()))
    return [entry for entry in entries if entry.name.endswith(ADD_ON_CARD) and entry.is_file()]


A = TypeVar("A", InstalledLora, InstalledControlNet, InstalledEmbedding)


def model_cards(models_dir: Path) -> Iterator[tuple[Path, ModelCard | str]]:
    """Read the cards below a models directory: each file with its card, or why it has none that counts."""
    return _first((_read(file, ModelCard) for file in card_files(models_dir)), lambda card: card.id)


def add_on_cards(models_dir: Path, names: Collection[str], form: type[A]) -> Iterator[tuple[Path, A | str]]:
    """Read the cards of add-ons in folders with one of these names; one whose file was deleted is none."""
    cards = (_read(file, form) for file in add_on_card_files(models_dir, names))
    there = ((file, card) for file, card in cards if isinstance(card, str) or (file.parent / card.file).is_file())
    return _first(there, lambda card: card.called)


def _read(file: Path, form: type[C]) -> tuple[Path, C | str]:
    try:
        return file, form.model_validate_json(file.read_bytes().decode("utf-8-sig"))
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        return file, ": ".join(filter(None, (".".join(map(str, wrong["loc"])), wrong["msg"])))
    except (UnicodeDecodeError, OSError) as error:
        return file, str(error)


def _first(cards: Iterable[tuple[Path, C | str]], called: Callable[[C], str]) -> Iterator[tuple[Path, C | str]]:
    """Of several cards of one id or name the first one counts."""
    taken: dict[str, Path] = {}
    for file, card in cards:
        other = file if isinstance(card, str) else taken.setdefault(called(card), file)
        yield file, card if other == file else f"{other} has its id"
