"""Textual inversion: embeddings of words that prompts name, in the layouts that people have."""
