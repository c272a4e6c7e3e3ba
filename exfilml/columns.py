"""The columns of the flows table: names, dtypes, units and limits.

Apart from `exfilml.schema`, which checks tables against them, because processes that
make rows and no tables can do without pandas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

START_DTYPE: Final = "datetime64[us, UTC]"

# An uplink that never rests at 400 Gbit/s takes two days for 2**53 bytes, 9 petabytes;
# a larger count in one flow is a wrapped or misread counter. The sum over a thousand
# such flows is still a number.
MAX_BYTES: Final = 2**53
MAX_PACKETS: Final = 2**50
MAX_DURATION_S: Final = 10 * 365.25 * 86400.0
# Captures of devices without a clock begin in 1970, and are as good as others.
FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 2200

# Highest possible value by unit; the lowest is 0 for all of them.
_HIGHEST: Final[Mapping[str, float]] = {
    "IP bytes": MAX_BYTES,
    "bytes": MAX_BYTES,
    "packets": MAX_PACKETS,
    "s": MAX_DURATION_S,
    "port": 65535,
    "IANA number": 255,
    "bit mask": 255,
    "bits/byte": 8,
    "p-value": 1,
    "probability": 1,
    "share": 1,
    "characters": 255,
    "count": MAX_PACKETS,
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the flows table.

    Attributes
    ----------
    name
        Column name.
    dtype
        The pandas dtype that `validate_flows` guarantees.
    unit
        Unit, or what the values are. The range of possible values follows from it.
    meaning
        One sentence.
    required
        Whether a table without it is refused.
    """

    name: str
    dtype: str
    unit: str
    meaning: str
    required: bool = False

    @property
    def high(self) -> float | None:
        """Highest possible value, None where there is none; the lowest is 0."""
        return _HIGHEST.get(self.unit)


def _payload_columns(side: str, who: str) -> Iterator[Column]:
    """Payload evidence of one direction, as `exfilml.payload` gives it."""

    def column(name: str, dtype: str, unit: str, meaning: str) -> Column:
        return Column(f"{side}_{name}", dtype, unit, f"{meaning}, {who}.")

    yield column("payload_bytes", "Int64", "bytes", "Transport payload")
    yield column("sampled_bytes", "Int64", "bytes", "Payload that was judged")
    yield column("entropy", "float64", "bits/byte", "Plug-in Shannon entropy")
    yield column("entropy_z", "float64", "z-score", "Entropy among random bytes")
    yield column("p_random", "float64", "p-value", "Uniform random bytes")
    yield column("start_p_random", "float64", "p-value", "The same, first 64 B")
    yield column("head_entropy", "float64", "bits/byte", "Entropy, first 512 B")
    yield column("head_p_random", "float64", "p-value", "Random bytes, first 512 B")
    yield column("body_entropy", "float64", "bits/byte", "Entropy, body")
    yield column("body_p_random", "float64", "p-value", "Random bytes, body")
    yield column("set_bits", "float64", "bits/byte", "Mean set bits")
    yield column("printable", "float64", "share", "Printable ASCII bytes")
    yield column("verdict", "str", "`VERDICTS`", "What the payload looks like")
    yield column("verdict_probability", "float64", "probability", "That it is right")
    yield column("concealed", "boolean", "flag", "Opaque, or opaque once decoded")
    yield column("opaque_from", "float64", "bytes", "Where opaque bytes begin")
    yield column("fully_encrypted", "boolean", "flag", "Opaque from the first byte")
    yield column("handshake", "str", "name", "Handshake at the start")
    yield column("magic", "str", "name", "File format by magic number")
    yield column("encoding", "str", "name", "Encoding that was undone")
    yield column("xor_period", "Int64", "bytes", "Length of a repeating key")
    yield column("protocol", "str", "name", "Plain-text grammar at the start")
    yield column("declared", "str", "name", "Media type or file name given for it")
    yield column(
        "misdeclared", "boolean", "flag", "Opaque, and cannot be what is given"
    )
    yield column("carried_bytes", "Int64", "bytes", "In DNS names and echo data")
    yield column("names", "Int64", "count", "Distinct DNS names under one domain")
    yield column("longest_label", "Int64", "characters", "Longest label of these")
    yield column("domain", "str", "host name", "That registered domain")


COLUMNS: Final[tuple[Column, ...]] = (
    Column("start", START_DTYPE, "UTC", "Time of the first packet.", required=True),
    Column("duration_s", "float64", "s", "Last packet minus first."),
    Column("src_ip", "str", "address", "Initiator.", required=True),
    Column("src_port", "int64", "port", "0 for ICMP.", required=True),
    Column("dst_ip", "str", "address", "Responder.", required=True),
    Column("dst_port", "int64", "port", "0 for ICMP.", required=True),
    Column("protocol", "int64", "IANA number", "IP protocol.", required=True),
    Column("src_bytes", "int64", "IP bytes", "By the initiator.", required=True),
    Column("dst_bytes", "int64", "IP bytes", "By the responder.", required=True),
    Column("src_packets", "Int64", "packets", "By the initiator."),
    Column("dst_packets", "Int64", "packets", "By the responder."),
    Column("tcp_flags", "Int64", "bit mask", "OR of both sides; empty unless TCP."),
    Column("conn_state", "str", "`CONN_STATES`", "How the conversation went."),
    Column("app", "str", "name", "Application as the source names it."),
    Column("app_verified", "boolean", "flag", "Inspected and our own check agrees."),
    Column(
        *("server_name", "str", "host name"),
        "TLS, QUIC, HTTP or DNS name; of mail, the recipient's domain.",
    ),
    Column("fingerprint", "str", "hash", "Client fingerprint (JA3, JA4 …)."),
    Column("user_agent", "str", "text", "HTTP user agent."),
    Column("content_type", "str", "media type", "HTTP content type."),
    Column("process", "str", "name", "Process on the local host."),
    Column("sensor", "str", "name", "File or sensor the flow came from."),
    Column("uid", "str", "name", "The source's identifier of the flow."),
    Column("via", "str", "`proxy`, address", "Proxy whose log tells of the flow."),
    Column(
        "first_speaker", "str", "`src` or `dst`", "Which side's payload came first."
    ),
    Column(
        "echoed", "float64", "share", "Echo replies that repeat what was requested."
    ),
    Column(
        *("undivided", "boolean", "flag"),
        "Bytes of both sides are one number, written to the side that may have sent all.",
    ),
    Column("label", "str", "name", "Ground truth, where there is one."),
    *_payload_columns("src", "by the initiator"),
    *_payload_columns("dst", "by the responder"),
)

DTYPES: Final[dict[str, str]] = {c.name: c.dtype for c in COLUMNS}
REQUIRED: Final[tuple[str, ...]] = tuple(c.name for c in COLUMNS if c.required)
PAYLOAD_COLUMNS: Final[tuple[str, ...]] = tuple(
    c.name[4:] for c in _payload_columns("src", "")
)
VERDICTS: Final = ("opaque", "compressed", "encoded", "text", "structured", "unknown")
CONN_STATES: Final = (
    "established",  # both sides sent, and for TCP the handshake was seen
    "midstream",  # TCP, both sides sent, no handshake in the capture
    "one_sided",  # one side alone sent: the initiator, as far as can be told
    "rejected",  # TCP reset, or answered by a reset, before any payload
    "unsolicited",  # ICMP replies that nothing asked for
)
