"""`python -m latentd`."""

from latentd.cli import process

process()
