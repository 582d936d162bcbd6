"""On which device a process computes: those that aren't there, or of other kinds, are refused by name."""

from __future__ import annotations

import pytest
import torch

from core.errors import ConfigurationError
from models.training.loop.processes import device_of, join


@pytest.mark.parametrize("name", ["toaster", "meta", "mps", "xpu:3", "cuda:x", "cuda:-1", ""])
def test_a_device_that_is_none_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"device is '{name}'; cpu, cuda or cuda:N is one") as refused:
        device_of(name)
    assert refused.value.value == name


@pytest.mark.parametrize("name", ["cuda:2", "cuda:300"])
def test_a_gpu_beyond_the_last_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(device_of(known)) for known in ("cpu", "auto", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda", "cuda:1"]
    with pytest.raises(ConfigurationError, match=f"device is '{name}'; torch finds 2 CUDA devices, from cuda:0, here"):
        device_of(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # a driver that is too old, which NVML counts for
    with pytest.raises(ConfigurationError, match="torch finds no CUDA device here"):
        device_of(name)


def test_more_processes_than_gpus_are_refused_before_they_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in (("WORLD_SIZE", "4"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=r"process 2 \(from 0\) here, and each has its own GPU; torch finds 2"):
        join("cuda")
