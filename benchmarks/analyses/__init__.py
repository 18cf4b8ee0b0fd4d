"""Looks at the trained rows beside the cells: maps, false negatives."""
