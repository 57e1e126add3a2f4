"""Public benchmarks: one catalogue, readers of their rows, judging with a journal, scoring rules and averages."""
