"""The routes, one file a resource; each reads its request and calls what does the work."""
