"""What every process shares: errors, settings, storage, pictures, logs, and what counts as Redis being away."""
