"""The bench: what the bridge costs, as ratios against the least code that does the same, and against its peers."""
