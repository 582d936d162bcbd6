"""`python -m tests.fuzz [--requests N] [--seed S] [--only K]`: fuzz a gateway; exit 1 if something did not hold."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.run import default_seed, fuzz


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=None, help="the same seed makes the same requests; default: drawn")
    parser.add_argument("--only", type=int, help="send this one request alone")
    options = parser.parse_args()
    seed, began = default_seed() if options.seed is None else options.seed, time.monotonic()

    def tell(line: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:7.1f} s  {line}\n")
        sys.stdout.flush()

    tell(f"seed {seed}")
    numbers = range(options.requests) if options.only is None else range(options.only, options.only + 1)
    with tempfile.TemporaryDirectory(prefix="latentd-fuzz-") as folder:
        report = fuzz(seed, numbers, Path(folder), tell)
    for line in report.lines():
        tell(line)
    return 1 if report.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
