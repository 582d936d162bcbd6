"""Feature networks: what perceptual losses and measures compare pictures by. Each has a name for the figures it makes."""
