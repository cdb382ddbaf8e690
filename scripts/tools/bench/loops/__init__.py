"""Agent loops to measure against, each a process that takes tasks on stdin: the floor, and the peers from PyPI."""
