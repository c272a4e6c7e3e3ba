"""Parts of ``compare.py``: what is compared, the other methods, and the tables."""
