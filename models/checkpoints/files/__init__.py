"""Files of weights, whatever layout they hold: safetensors, pickles that execute nothing, renaming of keys."""
