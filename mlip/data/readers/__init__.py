"""One reader per data set, in the data set's own on-disk layout; found by file name."""
