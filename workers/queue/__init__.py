"""What a worker does with Redis: claims, events, savepoints, and jobs whose worker died."""
