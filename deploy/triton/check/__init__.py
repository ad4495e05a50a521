"""A tiny model repository: the one request whose answer is known."""
