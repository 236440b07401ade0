"""A masked model and its samples, and all that can be asked of them."""
