"""Compiled loops of the forest, apart so that numba is imported only to score.

Each loop takes all rows and the range of them that is its own, so that threads can
share the work (`_threads`), and writes to arrays of the caller.
"""
