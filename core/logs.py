"""Structured logs of every process: readable lines on a terminal, JSON elsewhere; never prompts."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress

import structlog
from structlog.stdlib import ProcessorFormatter


class _Lines(structlog.PrintLogger):
    """Lines that can't be written are lost: what they tell of goes on, as do those of the standard library."""

    def msg(self, message: str) -> None:
        with suppress(OSError, ValueError):  # a full disk, a reader that is gone; a closed stream
            super().msg(message)

    log = debug = info = warn = warning = fatal = failure = err = error = critical = exception = msg


def configure(level: str) -> None:
    """Send structlog and the standard library's loggers to standard error at `level`, in one form."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shown = _shown()
    common: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *common],
            processors=[ProcessorFormatter.remove_processors_meta, *shown],
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler])
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*common, *shown],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: _Lines(sys.stderr),  # as it is now: tests exchange it
    )


def are_json() -> bool:
    """Tell whether standard error is no terminal, so that lines are for programs."""
    return sys.stderr is None or not sys.stderr.isatty()


def _shown() -> list[structlog.types.Processor]:
    """How a line is written. Tracebacks are without local variables: those hold prompts and keys."""
    if not are_json():
        colours = not os.environ.get("NO_COLOR")  # as the commands' own output has it
        return [structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
