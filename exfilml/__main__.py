"""`python -m exfilml` runs the command line."""

from __future__ import annotations

from exfilml.cli import main

main()
