"""What a bench ran on, and the most that it does: the product of two matrices, timed on the spot."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import torch

from core.version import __version__
from workers.metrics.gpu import device_kind

SIDES = {"cuda": 8192, "cpu": 2048}  # of the square matrices whose product is the peak
WARM_UP, CALLS = 2, 10
TIMED = ("diffusers", "transformers", "triton", "litserve")


@dataclass(frozen=True, slots=True)
class Machine:
    """Whatever a figure depends on beside the code that made it. `load` is the mean number of runnable processes of
    the minute before: others that compute at the same time, too."""

    device: str
    cores: int
    threads: int
    load: float
    date: str
    latentd: str
    python: str
    torch: str
    packages: dict[str, str]

    @property
    def line(self) -> str:
        """All of it for people."""
        others = "".join(f", {name} {number}" for name, number in self.packages.items())
        cpu = f"{self.threads} threads of {self.cores} cores, load {self.load:.1f}"
        return f"{self.device}, {cpu}, torch {self.torch}{others}, latentd {self.latentd}, {self.date}"


def this_machine(device: str) -> Machine:
    return Machine(
        device=device_kind(torch.device(device)),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        load=round(os.getloadavg()[0], 1),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        latentd=__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        packages={name: number for name in TIMED if (number := _version(name)) is not None},
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: str) -> float:
    """Time one call, the device's part included."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def peak_flops(device: str, dtype: torch.dtype, side: int | None = None) -> float:
    """Measure FLOP/s of a product of two `side`² matrices: the bound that a network's share is told of.

    The best call counts: a bound is what the machine can do while nothing disturbs it.
    """
    n = side or SIDES[torch.device(device).type]
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    times = [seconds(lambda: a @ b, device) for _ in range(WARM_UP + CALLS)]
    return 2 * n**3 / min(times[WARM_UP:])
