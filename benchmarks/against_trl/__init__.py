"""Our engine against a stock trainer on the same work: what is measured, on both sides, and how it is shown.

A :class:`~benchmarks.against_trl.work.BenchSettings` enters; a result per verb leaves, as one dictionary that is
printed, written as JSON and drawn. Everything in it was measured in that run.
"""
