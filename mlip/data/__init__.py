"""From the folder of a data set to a store of films, its division, and its audit."""
