"""Predictions, metrics and their statistics."""
