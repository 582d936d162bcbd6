"""What a worker's loop does with its job runs, from the claim to the published end."""
