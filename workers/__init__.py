"""From the queue to the device: claims, step batching, storage and progress."""

import os

# Idle OpenMP threads sleep instead of spinning: on cores shared with the gateway or other programs, spinning made a
# UNet call 3 times slower (2 busy cores). It is read once, when torch loads, and so stands before any import of it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
