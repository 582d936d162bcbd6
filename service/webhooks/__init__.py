"""Webhooks of ended jobs: where they may go, and that each is sent at least once."""
