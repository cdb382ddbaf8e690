"""One delegated task, from request to report."""
