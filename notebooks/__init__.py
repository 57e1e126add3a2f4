"""Notebooks, and the command that writes the repository's address into them."""
