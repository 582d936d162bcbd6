"""Stage 1: KL and VQ autoencoders with L1, perceptual and patch-adversarial losses (paper §3.1, App. G)."""
