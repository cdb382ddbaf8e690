"""Is everything in place? One module for each part of the chain; `examination` goes through all of them."""
