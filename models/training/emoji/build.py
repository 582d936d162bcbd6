"""The builder: artwork of every chosen style, rendered with a transparent ground, and metadata.jsonl beside it."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import resvg_py
from PIL import Image

from core.errors import ConfigurationError
from models.training.configs.emoji import EmojiConfig, Style
from models.training.data.folder import METADATA
from models.training.emoji.captions import captions_of
from models.training.emoji.names import Names, named_by_picture, plain, read_names, weight_of
from models.training.emoji.packages import NAME_CREDIT, SOURCES, fetch, read_files, read_json
from models.training.loop.alone import held
from models.training.loop.draws import generator
from models.training.loop.trainer import Progress, Report, Stop

PACKAGES, IMAGES, CREDITS = "packages", "images", "ATTRIBUTION.md"
OPAQUE, LEAST = 16, 0.02  # an alpha that is seen, and the share of the canvas that must be
TOLD_EVERY = 50


@dataclass(frozen=True, slots=True)
class Artwork:
    """One picture of a style: its key in the package, its name, and its source."""

    style: Style
    key: str
    name: str
    source: str | bytes  # SVG or WebP

    @property
    def file(self) -> str:
        """Where it lies below the set's folder."""
        return f"{IMAGES}/{self.style}-{self.key}.png"


def build_emoji(config: EmojiConfig, report: Report, stop: Stop) -> bool:
    """Build the set; pictures that are there in its size are kept. Returns whether it is whole: `stop` may end it.

    Raises:
        ConfigurationError: npm can't fetch a package, nothing is left of a style, or another process builds there.
    """
    with held(config.out):
        return _built(config, report, stop)


def _built(config: EmojiConfig, report: Report, stop: Stop) -> bool:
    packages = config.out / PACKAGES
    names = read_names(packages)
    (config.out / IMAGES).mkdir(parents=True, exist_ok=True)
    found = [artwork for style in config.styles for artwork in _artworks(style, packages, names)]
    chosen = [artwork for artwork in found if not config.named or named_by_picture(artwork.name)]
    drawn = []
    for number, artwork in enumerate(chosen):
        if _rendered(artwork, config):
            drawn.append(artwork)
        if number % TOLD_EVERY == 0 or number == len(chosen) - 1:
            report(Progress(number + 1, len(chosen), {}, "pictures"))
        if stop() and number < len(chosen) - 1:
            return False
    _write_metadata(drawn, names, config)
    credits_ = [SOURCES[style].credit for style in config.styles]
    (config.out / CREDITS).write_text("".join(f"- {line}\n" for line in [*credits_, NAME_CREDIT]), "utf-8")
    return True


def _artworks(style: Style, packages: Path, names: Names) -> Iterator[Artwork]:
    source = SOURCES[style]
    archive = fetch(source.package, packages)
    if source.kind == "webp":
        for code, data in sorted(read_files(archive, ".webp")):
            name = names.of_code(code)
            if name is not None:
                yield Artwork(style, code, name, data)
        return
    icons: dict[str, Any] = read_json(archive, "icons.json")
    for key, icon in sorted(icons["icons"].items()):
        if not icon.get("hidden"):
            yield Artwork(style, key, plain(key), _svg(icon, icons))


def _svg(icon: dict[str, Any], icons: dict[str, Any]) -> str:
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} viewBox="{box}">{icon["body"]}</svg>'


def _rendered(artwork: Artwork, config: EmojiConfig) -> bool:
    """Render a picture unless it is there in this size. Returns whether it shows anything."""
    file = config.out / artwork.file
    if _size(file) == (config.size, config.size):
        return True
    picture = _fitted(_decoded(artwork, config.size), config.size)
    seen = picture.getchannel("A").point(lambda value: 255 if value > OPAQUE else 0).histogram()[255]
    if seen < LEAST * config.size**2:
        return False
    unfinished = file.with_name(f".{file.name}")
    picture.save(unfinished, "png")
    unfinished.replace(file)
    return True


def _size(file: Path) -> tuple[int, int] | None:
    """Read a picture's width and height off its header; None where there is no picture."""
    try:
        with Image.open(file) as picture:
            return picture.size
    except OSError:
        return None


def _decoded(artwork: Artwork, size: int) -> Image.Image:
    try:
        if isinstance(artwork.source, bytes):
            data = artwork.source
        else:
            data = bytes(
                resvg_py.svg_to_bytes(svg_string=artwork.source, width=size, height=size, skip_system_fonts=True)
            )
        return Image.open(io.BytesIO(data)).convert("RGBA")
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"{artwork.style} {artwork.key}: can't be rendered ({error})") from error


def _fitted(picture: Image.Image, size: int) -> Image.Image:
    """Scale the longer side to `size`, in the middle of a transparent square."""
    if picture.size == (size, size):
        return picture
    ratio = size / max(picture.size)
    small = picture.resize(
        (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio))), Image.Resampling.LANCZOS
    )
    canvas = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    canvas.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
    return canvas


def _write_metadata(drawn: list[Artwork], names: Names, config: EmojiConfig) -> None:
    early = _weights(drawn, config.styles, 1.0)
    late = _weights(drawn, config.late_styles or config.styles, config.short_names)
    lines = []
    for number, artwork in enumerate(drawn):
        rng = generator(config.seed, "captions", number)
        tags = names.tags(artwork.name)
        texts = captions_of(artwork.name, tags, artwork.style, config.plain, config.captions, rng)
        row = {"file_name": artwork.file, "text": texts, "label": artwork.name, "style": artwork.style}
        lines.append(json.dumps({**row, "weight": early[number], "weight_late": late[number]}, ensure_ascii=False))
    unfinished = config.out / f".{METADATA}"
    unfinished.write_text("\n".join(lines) + "\n", "utf-8")
    unfinished.replace(config.out / METADATA)


def _weights(drawn: list[Artwork], shares: dict[Style, float], short: float) -> list[float]:
    """Return sampling weights: each style its share, names of one word `short` times as often as others in it.

    Raises:
        ConfigurationError: nothing is left of a style.
    """
    raw = [weight_of(a.name) * (short if " " not in a.name else 1.0) for a in drawn]
    totals: Counter[Style] = Counter()
    for artwork, weight in zip(drawn, raw, strict=True):
        totals[artwork.style] += weight  # type: ignore[assignment]
    for style in shares:
        if not totals[style]:
            raise ConfigurationError(f"no picture of style {style} is left", field="styles", value=style)
    return [shares.get(a.style, 0.0) * weight / totals[a.style] for a, weight in zip(drawn, raw, strict=True)]
