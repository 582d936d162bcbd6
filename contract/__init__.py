"""What travels between processes. Pydantic only: no torch, no FastAPI, no connection."""
