"""Commands that draw: here, by the rules and the engine of the service, or by a server."""
