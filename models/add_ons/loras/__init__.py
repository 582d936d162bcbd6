"""LoRA and LoCon: files in the layouts that people have, and the low-rank products that they add to layers."""
