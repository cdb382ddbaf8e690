"""An HTTP server on loopback that answers, and fails, the way LM Studio does."""
