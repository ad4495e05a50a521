"""What the local Triton is made of: its environment's lock, our backend, the start-up check."""
