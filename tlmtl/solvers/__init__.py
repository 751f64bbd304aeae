"""Heads found on frozen features by another way than the training loop."""
