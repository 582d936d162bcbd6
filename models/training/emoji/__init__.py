"""The emoji set: open artwork of npm packages, rendered into a folder of pictures with captions."""
