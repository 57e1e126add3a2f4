"""The command line ``rubric-arm``: short verbs over the Python API.

Input: arguments.
Output: results on standard output, progress and errors on standard error, exit code 2 for a mistake that the user can
fix and 130 after Ctrl-C. Exports nothing; ``rubric_arm_lite.cli.main:main`` is the entry point.
"""
