"""Batches, the training loop, checkpoints and what they were made with."""
