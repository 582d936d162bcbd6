"""`latentd up` starts workers on the GPUs that torch sees, which may be fewer than the machine's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs

from latentd.devices import devices
from tests.nvml import StandInNvml

STAND_IN = """
import warnings
__version__ = "2.9.1"
class version:
    cuda = {cuda!r}
class cuda:
    def is_available():
        if {complaint!r}:
            warnings.warn({complaint!r})
        return {gpus} > 0 and not {complaint!r}
    def device_count():
        return {gpus}
"""
OLD_DRIVER = "The NVIDIA driver on your system is too old"


@pytest.fixture(autouse=True)
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose driver knows a card."""
    monkeypatch.setitem(sys.modules, "pynvml", StandInNvml())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def given_torch(folder: Path, gpus: int, cuda: str | None = "12.8", complaint: str = "") -> str:
    """A torch for children alone, which says these things; the search path that finds it."""
    (folder / "torch.py").write_text(STAND_IN.format(gpus=gpus, cuda=cuda, complaint=complaint))
    return f"{folder}:{Path.cwd()}"


def test_a_driver_without_torchs_sight_of_it_means_the_cpu() -> None:
    with capture_logs() as logs:
        assert devices() == ([f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"])
    assert torch.cuda.is_available() or torch.__version__ in logs[-1]["reason"] or "none" in logs[-1]["reason"]


@pytest.mark.parametrize(
    ("cuda", "gpus", "complaint", "visible", "reason"),
    [
        (None, 0, "", None, "torch 2.9.1 is a build without CUDA"),
        ("12.8", 1, OLD_DRIVER, None, OLD_DRIVER),
        ("12.8", 0, "", "", "CUDA_VISIBLE_DEVICES=''"),
        ("12.8", 0, "", None, "torch finds none"),
    ],
)
def test_the_reason_why_no_gpu_is_used_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cuda: str | None,
    gpus: int,
    complaint: str,
    visible: str | None,
    reason: str,
) -> None:
    monkeypatch.setenv("PYTHONPATH", given_torch(tmp_path, gpus, cuda, complaint))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with capture_logs() as logs:
        assert devices() == ["cpu"]
    assert logs[-1]["log_level"] == "warning"
    assert logs[-1]["reason"] == reason


def test_each_gpu_that_torch_sees_has_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", given_torch(tmp_path, gpus=2))
    assert devices() == ["cuda:0", "cuda:1"]


def test_a_torch_that_does_not_import_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", given_torch(tmp_path, gpus=1))
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')")
    with capture_logs() as logs:
        assert devices() == ["cpu"]
    assert "libcudart.so.12" in logs[-1]["reason"]


def test_without_a_driver_torch_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", given_torch(tmp_path, gpus=1))
    monkeypatch.setitem(sys.modules, "pynvml", StandInNvml(lost=True))
    with capture_logs() as logs:
        assert devices() == ["cpu"]
    assert logs == []
