"""Shared prefixes: rows of tokens that begin alike are computed as a tree, exactly, in rollouts and updates."""
