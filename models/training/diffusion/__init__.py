"""Stage 2: ε_θ(z_t, t, τθ(y)) on latents that are encoded once (paper §3.2, §3.3), and super-resolution with it."""
