"""What hosts know and packets do not show: processes, command lines, files.

`read_host_events` reads the logs of hosts into one table of events (`exfilml.hosts._events`
lists its columns). `add_processes` says which program opened each flow, by its ends and
time; the program's name is generalised (`exfilml.hosts._programs`), so that what was
learned on one host is known again on another. `case_context` shows what happened on a
case's host around its start.
"""

from __future__ import annotations

from exfilml.hosts._context import case_context
from exfilml.hosts._join import add_processes, joinable
from exfilml.hosts._read import read_host_events

__all__ = ["add_processes", "case_context", "joinable", "read_host_events"]
