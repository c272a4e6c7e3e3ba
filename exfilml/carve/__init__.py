"""The packets behind flows: carved from captures, put together, looked at.

`carve_packets` writes the packets of flows to a file of their own, `follow_streams`
puts together what each direction carried, and `packet_filters` gives the expressions
with which tshark and tcpdump select the same packets.
"""

from __future__ import annotations

from exfilml.carve._carved import Carved, carve_packets
from exfilml.carve._described import describe_streams, write_streams
from exfilml.carve._filters import Filters, packet_filters
from exfilml.carve._hexdump import hexdump
from exfilml.carve._opacity import Opacity, find_opaque
from exfilml.carve._scan import is_capture
from exfilml.carve._stream import Stream
from exfilml.carve._streams import follow_streams

__all__ = [
    "Carved",
    "Filters",
    "Opacity",
    "Stream",
    "carve_packets",
    "describe_streams",
    "find_opaque",
    "follow_streams",
    "hexdump",
    "is_capture",
    "packet_filters",
    "write_streams",
]
