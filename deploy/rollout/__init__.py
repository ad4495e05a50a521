"""A canary's rollout: what feedback says of it, and what follows from that."""
