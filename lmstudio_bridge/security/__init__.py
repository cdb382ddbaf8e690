"""What may run, and what must not leak."""
