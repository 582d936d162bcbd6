"""Stage 1: autoencoders with L1, perceptual and patch-adversarial losses, KL- or VQ-regularised (paper §3.1, App. G)."""
