"""LM Studio over HTTP: the client, its errors, its models, the queue in front of it."""
