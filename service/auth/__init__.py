"""Who may do what: API keys, what each caller may see, signed image URLs."""
