"""Folders as diffusers writes them, read and written."""
