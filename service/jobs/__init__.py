"""Jobs as clients read them: views, event streams, waits for the end, images and traces."""
