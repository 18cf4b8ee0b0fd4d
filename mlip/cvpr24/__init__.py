"""MLIP (CVPR 2024): divergence encoder and knowledge-guided contrastive learning, reconstructed. See README.md."""
