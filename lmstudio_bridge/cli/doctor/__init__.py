"""`lmstudio-bridge doctor`: one module for each link of the chain."""
