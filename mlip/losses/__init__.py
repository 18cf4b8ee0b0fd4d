"""Losses shared by methods. Each function names the paper section or official repository its formula is from."""
