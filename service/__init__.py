"""The HTTP gateway: validates requests, enqueues them, answers jobs, events and images. No torch, no state."""
