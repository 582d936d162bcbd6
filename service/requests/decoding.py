"""Decoding of the files that a kind needs, by the rules that the worker reads them by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from contract.card import ModelCard
from core.pictures import open_upload, read_label_map, read_mask
from service.requests.posts import InpaintPost, Post

Size: TypeAlias = tuple[int, int]  # width and height after EXIF rotation
ANY_CLASS = 2**16  # where the card doesn't say how many there are


def no_files(_post: Post, _files: Mapping[str, bytes], _card: ModelCard, _max_pixels: int) -> dict[str, Size]:
    """Decode nothing."""
    return {}


def picture(_post: Post, files: Mapping[str, bytes], _card: ModelCard, max_pixels: int) -> dict[str, Size]:
    """Decode the image.

    Raises:
        InvalidRequest: it can't be read or is too large.
    """
    return {"image": open_upload(files["image"], max_pixels).size}


def picture_and_mask(
    post: InpaintPost, files: Mapping[str, bytes], card: ModelCard, max_pixels: int
) -> dict[str, Size]:
    """Decode the image, and the mask over it.

    Raises:
        InvalidRequest: one can't be read or is too large; a mask that is empty, ambiguous or of another shape.
    """
    sizes = picture(post, files, card, max_pixels)
    return {**sizes, "mask": read_mask(files["mask"], post.mask_mode, sizes["image"], max_pixels).size}


def label_map(_post: Post, files: Mapping[str, bytes], card: ModelCard, max_pixels: int) -> dict[str, Size]:
    """Decode a label map.

    Raises:
        InvalidRequest: it can't be read, is too large or has a class that the model hasn't.
    """
    return {"image": read_label_map(files["image"], card.map_classes or ANY_CLASS, max_pixels).size}
