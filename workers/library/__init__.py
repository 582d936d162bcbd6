"""Which models are on disk, which of them are in memory, and how they get there."""
