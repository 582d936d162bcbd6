"""The gateway's Prometheus families, and what Redis tells at a scrape."""
