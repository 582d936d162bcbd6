"""The gateway's fixtures, for pages that need no worker, and a browser."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.e2e.browser import chromium
from tests.gateway import client, folder, gateway, gateway_settings

__all__ = ["browser", "client", "folder", "gateway", "gateway_settings"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser of the module: kept longer, its event loop would be in the way of tests that start one."""
    with chromium() as started:
        yield started
