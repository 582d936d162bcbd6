"""The version of latentd."""

__version__ = "0.1.0"
