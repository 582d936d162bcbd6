"""Routes of AUTOMATIC1111's API, and how the OpenAPI document describes them."""
