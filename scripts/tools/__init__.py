"""Tools for developing: measuring, soaking, fuzzing, and making pages."""
