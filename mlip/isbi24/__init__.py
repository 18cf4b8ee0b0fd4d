"""MLIP (ISBI 2024): masked local representation learning, reconstructed. See README.md."""
