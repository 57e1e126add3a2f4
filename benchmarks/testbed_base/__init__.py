"""Trains the tiny base that the testbed ships: its tokenizer, its corpus and its training."""
