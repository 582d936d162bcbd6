"""What workers measure: Prometheus families, GPUs, speeds and the step-time table."""
