"""Prompts to token numbers, by each checkpoint's own files."""
