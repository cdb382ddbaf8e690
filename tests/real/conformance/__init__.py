"""The protocol's own tools, from npm, look at the bridge from outside."""
