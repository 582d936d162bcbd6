"""AUTOMATIC1111's API: /sdapi/v1/* as the web UI's clients call it."""
