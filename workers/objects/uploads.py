"""A job's uploads as the engine takes them, decoded on the threads that read them, never between two calls."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image

from contract.request import InpaintRequest, JobRequest
from core.pictures import open_upload, read_depth, read_label_map, read_mask

DEPTH = "depth"
ANY_CLASS = 2**16  # the engine checks them against the weights
ANY_SIZE = 2**62  # the gateway has checked it


def decode_uploads(request: JobRequest, files: Mapping[str, bytes]) -> dict[str, Image.Image]:
    """Decode what the gateway stored.

    Raises:
        InvalidRequest: a file isn't what the gateway stored.
    """
    if request.kind == "semantic2img":
        return {name: read_label_map(data, ANY_CLASS, ANY_SIZE, name) for name, data in files.items()}
    pictures = {name: open_upload(data, ANY_SIZE, name) for name, data in files.items() if name != DEPTH}
    if DEPTH in files:
        pictures[DEPTH] = read_depth(files[DEPTH], pictures["image"].size, ANY_SIZE)
    if isinstance(request, InpaintRequest):
        pictures["mask"] = read_mask(pictures["mask"], request.mask_mode, pictures["image"].size, ANY_SIZE)
    return pictures
