"""Rubric-ARM on one consumer GPU: a rubric generator and a judge, learned by alternating GRPO.

Importing this package loads neither torch nor transformers; each is imported where it is used.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
