"""latentd: a service that turns prompts, masks and small pictures into images with latent diffusion models."""
