"""The transfer tasks, one file or folder each; found by name."""
