"""The routes, one file a resource; each reads its request and calls what does the work.

Beside them is what they share: who asks (`caller`), how the OpenAPI document describes them (`openapi`), and the port
that serves `metrics` alone (`metrics_port`).
"""
