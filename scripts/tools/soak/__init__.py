"""The soak: many runs against a simulated LM Studio with faults."""
