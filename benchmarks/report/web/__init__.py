"""The self-contained page ``results/<study>.html``."""
