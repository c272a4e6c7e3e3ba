"""Flows of SiLK as rwcut prints them: ``|`` between columns, or another character.

Columns are known by their titles, see rwcut(1): ``sIP|dIP|sPort|dPort|pro|packets|
bytes|flags|sTime|duration|eTime|sensor|…``, padded or not (``--no-columns``), with a
delimiter at the end or without, and with ``--delimited=,``. ``+msec`` after a title is
of SiLK before 3. Addresses in figures (``--ip-format=decimal``) are not read.

**Bytes** are those of IP packets: SiLK keeps NetFlow's ``dOctets`` and IPFIX's
``octetTotalCount`` ("including IP header", RFC 5102 §5.10). SiLK does not keep the
sampling rate.

**Times** are UTC, as rwcut prints them unless it is told ``local``:
``2009/02/12T00:08:59.563``, ISO (``--timestamp-format=iso``) or seconds since 1970
(``epoch``). ``timezone`` is not asked for, and not used.

**Directions** are records of their own; ``_pairs`` puts them together. The port of ICMP
is type and code (``dPort``), and 0 in the flows table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from exfilml.sources._delimited import TEXT
from exfilml.sources._directed import printed
from exfilml.sources._headed import Form
from exfilml.sources._logs import whole
from exfilml.sources._packed import open_plain
from exfilml.sources._reading import Options, Reading

# A title of SiLK's own comes first, whichever columns were asked for.
_HEADER: Final = re.compile(
    rb"^ *(?:[sd](?:IP|Port)|nhIP|pro|[se]Time(?:\+msec)?)(?: *[|,\t;:].*)?$",
    re.MULTILINE,
)


def _known(kind: Any, *names: str) -> tuple[frozenset[str], Any]:
    return frozenset(names), kind


FORM: Final = Form(
    _HEADER,
    None,
    {
        "start": _known(pa.string(), "sTime", "sTime+msec"),
        "end": _known(pa.string(), "eTime", "eTime+msec"),
        "duration": _known(pa.float64(), "duration", "dur", "dur+msec"),
        "src_ip": _known(TEXT, "sIP"),
        "dst_ip": _known(TEXT, "dIP"),
        "src_port": _known(pa.float64(), "sPort"),
        "dst_port": _known(pa.float64(), "dPort"),
        "protocol": _known(TEXT, "pro", "protocol"),
        "flags": _known(TEXT, "flags"),
        "src_packets": _known(pa.int64(), "packets", "pkts"),
        "src_bytes": _known(pa.int64(), "bytes"),
        "sensor": _known(TEXT, "sensor"),
    },
    frozenset(
        {"start", "src_ip", "dst_ip", "src_port", "dst_port", "protocol", "src_bytes"}
    ),
)


def detect(head: bytes) -> bool:
    """Say from the first bytes whether these are flows that rwcut printed."""
    line = head.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].rstrip(b"\r")
    names = {name.strip() for name in re.split(r"[|,\t;:]", line.decode("latin-1"))}
    known = {our for our, (theirs, _) in FORM.names.items() if theirs & names}
    return _HEADER.match(line) is not None and known >= FORM.needed


def read(path: Path, options: Options) -> Reading:
    """Read a whole file."""
    return whole(stream(path, options))


def stream(path: Path, options: Options) -> Iterator[Reading]:
    """Read a file piece by piece; the last reading says what was lost.

    Raises
    ------
    SourceError
        If not one line could be read.
    """
    with open_plain(path, options.advance) as plain:
        yield from printed(plain, FORM, path, replace(options, timezone="UTC"))
