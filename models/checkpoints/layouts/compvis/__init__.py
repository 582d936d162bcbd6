"""CompVis's key layout: LDM .ckpt files and single files of Stable Diffusion 1.x and 2.x."""
