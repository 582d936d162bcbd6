"""How checkpoints lie on disk: CompVis single files, folders of diffusers, our own; and which one a path holds."""
