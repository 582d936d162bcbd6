"""The gateway's fixtures, for pages that need no worker."""

from tests.gateway import client, folder, gateway, gateway_settings

__all__ = ["client", "folder", "gateway", "gateway_settings"]
