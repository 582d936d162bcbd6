"""LitServe around diffusers, batching dynamically: up to `--batch` requests, the first of which waits `--window`."""

from __future__ import annotations

from collections.abc import Sequence

import litserve
from fastapi import Response

from latentd.bench.peers.options import Options, read_options
from latentd.bench.peers.painter import Painter, Request


class PainterApi(litserve.LitAPI):  # type: ignore[misc]
    """Answers each request with a PNG; those of a batch are answered when all of it is done."""

    def __init__(self, options: Options) -> None:
        super().__init__(max_batch_size=options.batch, batch_timeout=options.window)
        self.options = options

    def setup(self, device: str) -> None:
        self.painter = Painter.load(self.options.folder, device, self.options.dtype, self.options.threads)

    def batch(self, inputs: Sequence[Request]) -> Sequence[Request]:
        return inputs

    def predict(self, requests: Sequence[Request]) -> list[bytes]:
        return self.painter.paint(requests)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="image/png")


def main() -> None:
    """Serve on loopback until stopped."""
    options = read_options()
    server = litserve.LitServer(PainterApi(options), accelerator=options.device, devices=1, timeout=False)
    server.run(host="127.0.0.1", port=options.port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
