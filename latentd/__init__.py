"""latentd: a service that turns prompts, masks and small pictures into images with latent diffusion models."""

__version__ = "0.1.0"
