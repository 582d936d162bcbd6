"""Feature networks: what perceptual losses and measures compare pictures by; each names the figures that it makes."""
