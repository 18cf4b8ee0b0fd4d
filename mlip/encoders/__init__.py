"""Image encoders (timm), text encoders (transformers) and tokenisation."""
