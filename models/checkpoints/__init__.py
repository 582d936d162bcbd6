"""Checkpoints in every layout people have, read into one internal form."""
