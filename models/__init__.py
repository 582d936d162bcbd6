"""Latent diffusion in torch (Rombach et al. 2022): networks, schedules, samplers, checkpoints. No queue, no HTTP."""
