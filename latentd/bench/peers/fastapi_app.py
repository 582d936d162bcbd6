"""Plain FastAPI around diffusers: a request is a call, one after another."""

from __future__ import annotations

from threading import Lock
from typing import Any

import uvicorn
from fastapi import Body, FastAPI, Response

from latentd.bench.peers.options import read_options
from latentd.bench.peers.painter import Painter


def create_app(painter: Painter) -> FastAPI:
    app, lock = FastAPI(), Lock()

    @app.get("/health")
    def health() -> str:
        return "ok"

    @app.post("/predict")
    def predict(request: dict[str, Any] = Body()) -> Response:  # noqa: B008 (FastAPI's way)
        with lock:  # FastAPI's threads would otherwise share the device among as many requests as there are
            (picture,) = painter.paint([request])
        return Response(picture, media_type="image/png")

    return app


def main() -> None:
    """Serve on loopback until stopped."""
    options = read_options()
    painter = Painter.load(options.folder, options.device, options.dtype, options.threads)
    uvicorn.run(create_app(painter), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
