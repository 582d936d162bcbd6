from __future__ import annotations

import re
import socket

import pytest

from core.errors import ConfigurationError
from core.listen import listen


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("LATENTD_PORT", "LATENTD_HOST=127.0.0.1 LATENTD_PORT="),
        ("LATENTD_METRICS_PORT", "LATENTD_METRICS_HOST=127.0.0.1 LATENTD_METRICS_PORT="),
        ("LATENTD_WORKER_METRICS_PORT", "LATENTD_METRICS_HOST=127.0.0.1 LATENTD_WORKER_METRICS_PORT="),
    ],
)
def test_a_taken_port_names_its_setting(variable: str, told: str) -> None:
    refused = pytest.raises(ConfigurationError, match=f"^{re.escape(told)}")
    with listen("127.0.0.1", 0, variable) as taken, refused as raised:
        listen("127.0.0.1", taken.getsockname()[1], variable)
    assert raised.value.field == variable


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_every_address_is_ipv4_s_too() -> None:
    with listen("::", 0, "LATENTD_PORT") as listening:
        port = listening.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=60).close()
