"""Which errors mean that memory ran out, and which don't; what numerics name."""

from __future__ import annotations

from threading import Event, Thread
from time import sleep

import pytest
import torch

from models.pipeline.fused import ALONE, making
from tests.engines import tiny_models
from workers.engine.device import configure, numerics_of, or_none


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a primitive"),  # oneDNN
    ],
)
def test_want_of_memory_is_none(error: Exception) -> None:
    def work() -> int:
        raise error

    assert or_none(work) is None


def test_the_allocator_of_this_machine_is_understood() -> None:
    assert or_none(lambda: torch.empty(1 << 60, dtype=torch.uint8)) is None


def test_other_errors_and_results_pass() -> None:
    assert or_none(lambda: 3) == 3
    with pytest.raises(RuntimeError, match="shape"):
        or_none(lambda: torch.zeros(2).view(3))


def test_what_lacks_while_kernels_are_fused_is_asked_for_again_once_they_are() -> None:
    begun, asked = Event(), list[bool]()

    def fuse() -> None:
        with ALONE:
            begun.set()
            while not asked:
                sleep(0.001)

    def work() -> int:
        asked.append(making())
        if asked[-1]:
            raise MemoryError
        return 3

    fusing = Thread(target=fuse)
    fusing.start()
    begun.wait()
    assert or_none(work) == 3
    fusing.join()
    assert asked == [True, False]


def test_numerics_name_what_bytes_depend_on() -> None:
    configure(1)
    model = tiny_models()["paint"]
    numerics = numerics_of(model.device, model.dtype, is_packed=False, threads=1, strict_rows=4)
    assert (numerics.device, numerics.dtype, numerics.threads, numerics.rows) == ("cpu", "float32", 1, 4)
    assert numerics.torch.startswith(torch.__version__)
    assert numerics.memory_format == "channels_last"
    assert torch.get_num_threads() == 1


def test_numerics_tell_cpus_apart_that_multiply_bfloat16_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, named = torch.device("cpu"), set()
    for units in ({}, {"avx512_bf16": True}, {"avx512_bf16": True, "amx_bf16": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda units=units: units)
        named.add(numerics_of(cpu, torch.bfloat16, is_packed=True, threads=1, strict_rows=4).torch)
    assert len(named) == 3
