"""Compares this project with reference cases: `python -m tests.parity.run CASE_DIR…` (default: the committed ones).

One line an output, then `N passed, N failed`; exit 1 if any output failed or is not covered.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tests.parity.adapted import Adapted
from tests.parity.case import Case, Compute, NotCoveredError
from tests.parity.controlled import Controlled
from tests.parity.modules import module
from tests.parity.overridden import Overridden
from tests.parity.pipelines import Pipeline
from tests.parity.samplers import FullLcm, SamplerRuns
from tests.parity.schedules import Schedules
from tests.parity.texts import UNPARSED, Texts
from tests.parity.whole import Whole
from tests.parity.xl import XL

CASES = Path(__file__).parent / "cases"
SD1_FILE = CASES / "single_file" / "sd1_single_file" / "model.safetensors"
SD1_FOLDER = CASES / "diffusers" / "stable_diffusion_1" / "pipeline"


@dataclass(frozen=True, slots=True)
class Result:
    """One output: whether it agrees, and the worst error as a share of its tolerance, or why there is none."""

    case: str
    output: str
    passed: bool
    detail: str

    def __str__(self) -> str:
        return f"{'pass' if self.passed else 'FAIL'}  {self.case}  {self.output}  {self.detail}"


def find_cases(roots: list[Path]) -> list[Case]:
    """Every folder with a case.json at or below the given ones."""
    files = [path for root in roots for path in sorted(root.rglob("case.json"))]
    return [Case(path.parent) for path in files]


def computation(case: Case) -> Compute:
    """By what the config describes: a pipeline, with LoRAs or without, a whole model, one class, or schedules alone."""
    if "lora_runs" in case.spec:
        return Adapted(case)
    if isinstance(case.spec["files"].get("vae"), list):
        return Overridden(case)
    if "controlnet" in case.spec["files"]:
        return Controlled(case)
    if "parsed" in case.spec or "embeddings" in case.spec["files"] or case.folder.name in UNPARSED:
        return Texts(case)
    if case.folder.name.startswith("sdxl"):
        return XL(case)
    if case.config.get("pipeline") == "LatentConsistencyModelPipeline":
        return FullLcm(case)
    if any("scheduler" in run or "sigmas" in run for run in case.runs().values()):
        return SamplerRuns(case)
    if "pipeline" in case.config:
        return Pipeline(case)
    if "model" in case.config:
        return Whole(case)
    if "target" in case.config or "unet_config" in case.config:
        return module(case)
    return Schedules(case)


def compare(case: Case) -> Iterator[Result]:
    """Results of all outputs of a case."""
    name = f"{case.folder.parent.name}/{case.folder.name}"
    try:
        compute = computation(case)
    except Exception as error:
        yield Result(name, "*", False, f"can't be loaded: {type(error).__name__}: {error}")
        return
    for output in sorted(case.expected):
        try:
            with torch.inference_mode():
                yield _judged(name, case, output, compute(output).numpy())
        except NotCoveredError as error:
            yield Result(name, output, False, f"not covered: {error}")
        except Exception as error:  # one broken case must not hide the others
            yield Result(name, output, False, f"{type(error).__name__}: {error}")


def _judged(name: str, case: Case, output: str, got: NDArray[Any]) -> Result:
    expected, spec = case.expected[output], case.tolerance(output)
    if got.shape != expected.shape:
        return Result(name, output, False, f"shape {got.shape}, expected {expected.shape}")
    if spec.get("exact") or (np.issubdtype(expected.dtype, np.integer) and "atol" not in spec):
        wrong = int((got != expected).sum())
        return Result(name, output, wrong == 0, f"{wrong} of {got.size} differ")
    gap = np.abs(got.astype(np.float64) - expected.astype(np.float64))
    bound = spec.get("atol", 0.0) + spec.get("rtol", 0.0) * np.abs(expected.astype(np.float64))
    worst = float(np.max(gap / np.maximum(bound, 1e-300), initial=0.0))
    return Result(name, output, bool(worst <= 1.0), f"{worst:.3f} of the tolerance")


def main(arguments: list[str]) -> int:
    """Run and report; returns the exit status."""
    roots = [Path(argument) for argument in arguments] or [CASES]
    results = []
    for case in find_cases(roots):
        for result in compare(case):
            results.append(result)
            sys.stdout.write(f"{result}\n")
    failed = sum(not result.passed for result in results)
    sys.stdout.write(f"{len(results) - failed} passed, {failed} failed\n")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
