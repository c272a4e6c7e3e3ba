"""Parts of `make_lab.py`; see README.md. What it shares with the sample it imports."""
