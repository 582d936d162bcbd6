"""Where an order is drawn: by a server where one is named, else here."""

from __future__ import annotations

from dataclasses import replace

from core.errors import ConfigurationError, InvalidRequest
from core.settings import Settings
from latentd.cli.drawing.order import Order
from latentd.cli.drawing.outputs import FORMATS, check_out
from latentd.cli.serve import settings_with


def draw(order: Order, server: str | None, device: str | None) -> None:
    """Draw an order and write its files.

    Raises:
        InvalidRequest: `device` beside a server, which has its own; whatever the request can't be.
        ConfigurationError: nothing here can draw, or write the files.
    """
    settings = settings_with(server=server)
    check_out(order.out)
    sent = {name: value for name, value in order.fields.items() if value is not None}
    order = replace(order, fields=sent | {"output_format": FORMATS[order.out.suffix.lower()]})
    if settings.server is None:
        _draw_here(order, settings, device or "auto")
        return
    if device is not None:
        detail = f"--device {device}: can't be told to {settings.server}, which draws by --server or LATENTD_SERVER"
        raise InvalidRequest(detail, field="device", value=device, bound="no --device with a server")
    from latentd.cli.drawing import remote

    remote.draw(order, settings.server, settings.api_key)


def _draw_here(order: Order, settings: Settings, device: str) -> None:
    try:
        from latentd.cli.drawing import local

        local.draw(order, settings, device)
    except ModuleNotFoundError as error:
        detail = f"{error.name} isn't installed: pip install -e '.[worker]' installs what drawing here needs; "
        raise ConfigurationError(f"{detail}--server names a service that draws") from error
