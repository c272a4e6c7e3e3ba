"""What the compiled loop takes for granted of NFStream's engine, and whether it holds.

The loop calls the engine's C functions itself and reads its structs. Both are checked
here, by name and type, against what the installed engine says of itself; where they
are in memory is asked for, not taken for granted.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np

TESTED: Final = ("6.6.0",)
"""Versions of NFStream with which the flows were compared, one by one."""

FUNCTIONS: Final = {
    "capture_next": (
        "int(*)(struct pcap *, struct nf_packet *, int, int, uint64_t, int)"
    ),
    "meter_initialize_flow": (
        "struct nf_flow *(*)(struct nf_packet *, uint8_t, uint8_t, uint16_t, uint8_t, "
        "struct ndpi_detection_module_struct *, uint8_t)"
    ),
    "meter_update_flow": (
        "uint8_t(*)(struct nf_flow *, struct nf_packet *, uint64_t, uint64_t, uint8_t, "
        "uint8_t, uint16_t, uint8_t, struct ndpi_detection_module_struct *, uint8_t)"
    ),
    "meter_expire_flow": (
        "void(*)(struct nf_flow *, uint8_t, struct ndpi_detection_module_struct *)"
    ),
    "meter_free_flow": "void(*)(struct nf_flow *, uint8_t, uint16_t, uint8_t)",
}
"""Prototypes of what the loop calls."""

# Fields that the loop reads, by the names they have in C.
_PACKET: Final = {
    "direction": "uint8_t",
    "time": "uint64_t",
    "src_ip": "uint64_t[2]",
    "dst_ip": "uint64_t[2]",
    "src_port": "uint16_t",
    "dst_port": "uint16_t",
    "ip_version": "uint8_t",
    "protocol": "uint8_t",
    "vlan_id": "uint16_t",
    "transport_size": "uint16_t",
    "payload_size": "uint16_t",
    "ip_content_len": "uint16_t",
    "ip_content": "uint8_t *",
    "tunnel_id": "unsigned int",
}
_FLOW: Final = {
    "src_ip_str": "char[48]",
    "src_port": "uint16_t",
    "dst_ip_str": "char[48]",
    "dst_port": "uint16_t",
    "protocol": "uint8_t",
    "ip_version": "uint8_t",
    "vlan_id": "uint16_t",
    "tunnel_id": "unsigned int",
    "bidirectional_first_seen_ms": "uint64_t",
    "bidirectional_last_seen_ms": "uint64_t",
    "src2dst_packets": "uint64_t",
    "src2dst_bytes": "uint64_t",
    "dst2src_packets": "uint64_t",
    "dst2src_bytes": "uint64_t",
    "application_name": "char[40]",
    "requested_server_name": "char[80]",
    "c_hash": "char[48]",
    "content_type": "char[64]",
    "user_agent": "char[256]",
    "confidence": "ndpi_confidence_t",
}
_FORMATS: Final = {
    "uint8_t": "<u1",
    "uint16_t": "<u2",
    "unsigned int": "<u4",
    "ndpi_confidence_t": "<u4",
    "uint64_t": "<u8",
    "uint8_t *": "<i8",
}


class EngineError(Exception):
    """The installed engine is not one that the compiled loop was made for."""


def check_engine() -> None:
    """Compare the installed engine with what is taken for granted.

    Raises
    ------
    EngineError
        That names the first difference.
    """
    if sys.byteorder != "little" or sys.maxsize < 1 << 62:
        raise EngineError("it was made for 64-bit little-endian machines")
    import nfstream

    if nfstream.__version__ not in TESTED:
        raise EngineError(
            f"NFStream {nfstream.__version__} was not tested with it, only "
            f"{', '.join(TESTED)}"
        )
    ffi, lib = engine()
    told = ffi.string(lib.engine_lib_version()).decode("ascii", "replace")
    if told != nfstream.__version__:
        raise EngineError(f"NFStream's engine calls itself {told}")
    for name, expected in FUNCTIONS.items():
        found = ffi.typeof(ffi.addressof(lib, name)).cname
        if found != expected:
            raise EngineError(f"{name} of NFStream's engine is a {found}")
    layout("nf_packet")
    layout("nf_flow")


def engine() -> tuple[Any, Any]:
    """Return cffi's view of the engine: ``ffi`` and ``lib``."""
    from nfstream.engine import create_engine

    ffi, lib = create_engine()
    return ffi, lib


def layout(struct: str) -> np.dtype[np.void]:
    """Return where the fields of a struct are, as a dtype of its size.

    An address of 128 bits becomes two fields, ``_low`` and ``_high``.

    Raises
    ------
    EngineError
        If a field is missing or has another type.
    """
    ffi, _ = engine()
    kind = ffi.typeof(f"struct {struct}")
    fields = dict(kind.fields)
    names, formats, offsets = [], [], []
    for name, expected in (_PACKET if struct == "nf_packet" else _FLOW).items():
        found = fields[name].type.cname if name in fields else "missing"
        if found != expected:
            raise EngineError(f"{name} in {struct} of NFStream's engine is {found}")
        offset, size = fields[name].offset, ffi.sizeof(fields[name].type)
        if expected == "uint64_t[2]":
            names += [f"{name}_low", f"{name}_high"]
            formats += ["<u8", "<u8"]
            offsets += [offset, offset + 8]
            continue
        form = f"S{size}" if expected.startswith("char[") else _FORMATS[expected]
        if np.dtype(form).itemsize != size:
            raise EngineError(f"{name} in {struct} of NFStream's engine has {size} B")
        names.append(name)
        formats.append(form)
        offsets.append(offset)
    return np.dtype(
        {
            "names": names,
            "formats": formats,
            "offsets": offsets,
            "itemsize": ffi.sizeof(kind),
        }
    )


def addresses() -> tuple[int, int, int, int, int]:
    """Return where the `FUNCTIONS` are, in their order."""
    ffi, lib = engine()
    first, second, third, fourth, fifth = (
        int(ffi.cast("uintptr_t", ffi.addressof(lib, name))) for name in FUNCTIONS
    )
    return first, second, third, fourth, fifth
