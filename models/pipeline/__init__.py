"""A model put together: its parts, what it is made of, and the loops that draw with it outside the engine."""
