"""What workers do with the object storage: uploads in, images out, and the sweep of what nothing names."""
