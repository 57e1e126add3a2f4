"""Public benchmarks: their rows as items, one engine that judges them, and their scoring rules as pure functions."""
