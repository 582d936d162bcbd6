"""On which devices `latentd up` starts workers.

NVML counts the machine's cards; torch may see fewer of them, or none: a build without CUDA, a driver too old for it,
CUDA_VISIBLE_DEVICES. So torch is asked, in a process of its own (`python -m latentd.devices`), because what it imports
and opens would stay in the supervisor; and only where there are cards, because its import takes seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import structlog

ASK_S = 120.0  # torch from a cold disk, and the driver's start

log = structlog.get_logger()


def devices() -> list[str]:
    """One entry per GPU that torch sees, else the CPU."""
    if cards() == 0:
        return ["cpu"]
    gpus, reason = asked()
    if gpus == 0:
        log.warning("this machine's GPUs aren't used: the worker draws on the CPU", reason=reason)
    return [f"cuda:{index}" for index in range(gpus)] or ["cpu"]


def cards() -> int:
    """How many GPUs the driver knows; 0 where there is none."""
    try:
        import pynvml
    except ImportError:
        return 0
    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0  # no driver on this machine


def asked() -> tuple[int, str]:
    """Ask torch in a child: how many GPUs it sees, and why none."""
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "latentd.devices"], capture_output=True, text=True, timeout=ASK_S, check=True
        )
    except subprocess.TimeoutExpired:
        return 0, f"torch told nothing about them within {ASK_S:g} s"
    except subprocess.CalledProcessError as error:
        return 0, f"torch can't be asked: {(error.stderr.splitlines() or [error])[-1]}"
    try:
        gpus, reason = json.loads(answer.stdout.splitlines()[-1])  # what else is imported may print, too
    except (IndexError, ValueError):
        return 0, f"torch can't be asked: it answered {answer.stdout!r}"
    return int(gpus), str(reason)


def seen() -> tuple[int, str]:
    """How many GPUs torch can use in this process, and why none."""
    import torch

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        # is_available starts CUDA; the count alone may be NVML's, which knows nothing of a driver that is too old
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if torch.version.cuda is None:
        return gpus, f"torch {torch.__version__} is a build without CUDA"
    if told:
        return gpus, str(told[-1].message)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return gpus, "torch finds none" if visible is None else f"CUDA_VISIBLE_DEVICES={visible!r}"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(seen()))
