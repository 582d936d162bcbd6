"""`latentd bench serve`: what clients wait under a Poisson load, by how requests are batched and by which server."""
