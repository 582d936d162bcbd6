"""Configurations of training runs: frozen, read from YAML, every unknown key refused by name."""
