"""What both stages share: the loop, its state on disk, its processes, its log."""
