"""Names what a file is that holds no flows, or that is not read yet.

A refusal that knows the file tells the reader what to do with it.
"""

from __future__ import annotations

from exfilml.sources._zeek_log import fields_of

_ZEEK_PATH = b"#path"


def what_it_is(head: bytes) -> str | None:
    """Say what a file is, by its first bytes; None if they are unknown."""
    if fields_of(head):
        return (
            "a log of Zeek that counts no bytes of connections; it is used for its names "
            "where it lies beside conn.log"
        )
    return None
