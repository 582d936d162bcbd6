"""ControlNets: files in the layouts that people have, and the networks that jobs name."""
