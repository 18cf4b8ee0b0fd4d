"""Getting the data sets that need no agreement: the only place of the project that asks another machine for something."""
