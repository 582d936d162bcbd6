"""A stand-in for the module `pynvml`: a card whose values are made up, or one that is lost."""

from __future__ import annotations

from dataclasses import dataclass, field

UUID = "GPU-00000000-0000-0000-0000-000000000000"


class NVMLError(Exception):
    """As pynvml's."""


@dataclass
class Utilization:
    gpu: int


@dataclass
class Memory:
    used: int
    total: int


@dataclass
class StandInNvml:
    """Answers for one card; `lost` has it raise, `silent` names functions that the card doesn't have."""

    utilization: int = 92
    used: int = 31 * 2**30
    total: int = 141 * 2**30
    milliwatts: int = 540_000
    lost: bool = False
    silent: set[str] = field(default_factory=set)
    NVMLError: type[Exception] = NVMLError

    def nvmlInit(self) -> None:  # noqa: N802
        if self.lost:
            raise NVMLError("GPU is lost")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != UUID:
            raise NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetUtilizationRates(self, _: str) -> Utilization:  # noqa: N802
        self._told("utilization")
        return Utilization(self.utilization)

    def nvmlDeviceGetMemoryInfo(self, _: str) -> Memory:  # noqa: N802
        return Memory(self.used, self.total)

    def nvmlDeviceGetPowerUsage(self, _: str) -> int:  # noqa: N802
        self._told("power")
        return self.milliwatts

    def _told(self, what: str) -> None:
        if what in self.silent:
            raise NVMLError("Not Supported")
