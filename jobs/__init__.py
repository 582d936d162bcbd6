"""A job's transitions, each one atomic script or transaction; the only package that imports RQ."""
