"""Whether a job may come in now: predicted waits, and when a full lane has room again."""
