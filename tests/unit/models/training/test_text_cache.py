"""Texts of a frozen encoder are encoded once, in pieces of any length."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from core.errors import ConfigurationError
from models.training.diffusion.cache import TEXTS, Cache, text_cache

COUNT = 2 * TEXTS + 1
Usage = namedtuple("Usage", ["total", "used", "free"])


def cache(folder: Path) -> Cache:
    return Cache({}, tuple(str(number) for number in range(COUNT)), (), 1, folder)


def encode(texts: list[str]) -> Tensor:
    """Each text's number; −1 for the empty one."""
    return torch.tensor([[[float(text or -1)] * 4] * 2 for text in texts])


def test_a_piece_goes_on_where_the_one_before_stopped(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    for _ in range(2):
        assert text_cache(cache(tmp_path), "it", encode, lambda *at: told.append(at), lambda: True) is None
    made = text_cache(cache(tmp_path), "it", encode, lambda *at: told.append(at), lambda: False)
    assert told == [(TEXTS, COUNT + 1), (2 * TEXTS, COUNT + 1), (COUNT + 1, COUNT + 1)]
    assert made is not None
    assert (np.asarray(made)[:, 0, 0] == [*range(COUNT), -1]).all()
    assert {file.name.partition("-")[0] for file in tmp_path.iterdir()} == {".lock", "text"}
    assert len(list(tmp_path.glob("text-*"))) == 1


def test_a_disk_without_room_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100, 99, 1))
    with pytest.raises(ConfigurationError, match=f"0 MB are free; {COUNT + 1} texts need"):
        text_cache(cache(tmp_path), "it", encode, lambda *_: None, lambda: False)
    assert not list(tmp_path.glob("*.npy"))
