"""What all tests share."""

from __future__ import annotations

LONGEST = 60


def pytest_make_parametrize_id(val):
    """Name bytes and long texts by their length.

    Archives hold the time at which they were made, and processes that share the tests
    among them must give each the same name.
    """
    if isinstance(val, bytes) or (isinstance(val, str) and len(val) > LONGEST):
        return f"{len(val)}-{type(val).__name__}"
    return None
