"""Step times for tests: as workers would have measured and published them."""

from __future__ import annotations

from redis import Redis

from contract.measurements import LATENT_FACTOR, on_device, shape_cell
from workers.metrics.step_times import write_cells


def cells(row_s: float, *, side: int = 8, **others: float) -> dict[str, float]:
    """Of a device on which calls cost by their rows; `others` as `encode_txt2img`, `decode` or `store`."""
    shape = (4, side, side)
    found = {shape_cell(shape, f"rows:{rows}"): rows * row_s for rows in (1, 16)}
    for name, seconds in others.items():
        found[name if name == "store" else shape_cell(shape, name.replace("_", ":"))] = seconds
    return found


def publish(redis: Redis, model: str, measured: dict[str, float], device_kind: str = "cpu", factor: int = 8) -> None:
    """Write cells into the model's hash."""
    fields = {on_device(cell, device_kind): seconds for cell, seconds in measured.items()}
    with redis.pipeline() as pipe:
        write_cells(pipe, model, {LATENT_FACTOR: factor, **fields})
        pipe.execute()
