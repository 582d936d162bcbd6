"""What stands between the socket and the routes: protocol, bounds, hosts, origins, and errors as problems."""
