"""LoRA fine-tuning: low-rank changes of a checkpoint's layers are trained, its weights stay (Hu et al. 2021)."""
