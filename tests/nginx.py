"""nginx before gateways, set up as docs/operations.md tells."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from latentd.child import die_with_parent
from tests.waits import wait_for

START_S = 120.0
_CONFIG = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {blocks}
}}
"""
_BALANCED = """
    upstream gateways {{
        {servers}
    }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 32m;
        location / {{
            proxy_pass http://gateways;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 120s;
            proxy_next_upstream error timeout non_idempotent;
        }}
    }}
"""


def balanced(port: int, gateways: Sequence[int]) -> str:
    """Configure one server before several gateways: what one doesn't take goes to the next."""
    servers = "\n        ".join(f"server 127.0.0.1:{each} max_fails=0;" for each in gateways)
    return _BALANCED.format(port=port, servers=servers)


class Nginx:
    """A proxy on loopback; `blocks` are the servers of its configuration, of which one listens on `port`."""

    def __init__(self, folder: Path, port: int, blocks: str) -> None:
        self._port = port
        self._log = folder / "nginx.log"
        config = folder / "nginx.conf"
        config.write_text(_CONFIG.format(folder=folder, blocks=blocks), "utf-8")
        command = [_program(), "-p", str(folder), "-e", str(self._log), "-c", str(config)]
        self.process = subprocess.Popen(command, preexec_fn=die_with_parent)

    def ready(self) -> None:
        """Wait until it listens."""
        wait_for(lambda: self.process.poll() is not None or self._listens(), START_S, "start of nginx")
        assert self.process.poll() is None, self._log.read_text()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0


def _program() -> str:
    """Find nginx; Debian installs it where only root's PATH looks."""
    found = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
    assert found is not None, "nginx isn't installed (apt install nginx)"
    return found
