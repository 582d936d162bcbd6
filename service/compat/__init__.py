"""Other services' APIs, as thin translations onto our own jobs: their clients work unchanged."""
