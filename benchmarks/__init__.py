"""Evaluation: one file or folder per transfer task, protocols, metrics, statistics, tables."""
