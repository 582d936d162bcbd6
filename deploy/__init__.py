"""How latentd is deployed: Docker, Prometheus, Grafana, Kubernetes. Nothing here is imported by the service."""
