"""Data of other projects: where rows come from (:mod:`.opening`) and what their columns mean."""
