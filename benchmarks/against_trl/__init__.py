"""Compares the training engine with TRL's stock trainer on the same work.

A :class:`~benchmarks.against_trl.work.BenchSettings` enters; one dictionary per verb leaves, which is printed,
written as JSON and drawn. Everything in it was measured in that run.
"""
