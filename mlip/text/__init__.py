"""Reports, their sentences, and their word pieces."""
