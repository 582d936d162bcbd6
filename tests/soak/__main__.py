"""`python -m tests.soak [--short] [--log FILE]`: run a soak, write its log, exit 1 if something did not hold."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.soak.plan import FULL, SHORT
from tests.soak.run import soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--short", action="store_true", help="the version of `make test`")
    parser.add_argument("--log", type=Path, help="where the log is written")
    options = parser.parse_args()
    plan, began = SHORT if options.short else FULL, time.monotonic()

    def tell(line: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:7.1f} s  {line}\n")
        sys.stdout.flush()

    with tempfile.TemporaryDirectory(prefix="latentd-soak-") as folder:
        complaints, text = soak(plan, Path(folder), tell)
    if options.log is not None:
        options.log.write_text(text, "utf-8")
    for complaint in complaints:
        tell(f"did not hold: {complaint}")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
