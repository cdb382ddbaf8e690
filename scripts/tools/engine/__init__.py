"""A real inference engine and real small models, for `pytest -m engine` and for the demo."""
