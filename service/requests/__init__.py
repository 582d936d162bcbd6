"""From what clients send to what will run: bodies, bounds, model cards, tokens, uploads."""
