"""What DNS names carry: questions grouped by the domain their sender asked under.

A query is a message to whoever owns the domain: all that stands below the registered
domain reaches its name server, through any resolver. `read` collects the distinct
names of one direction, counts what they hold below the domain asked for most, and
decodes it where it is written in an alphabet that ordinary names are not
(`_alphabets`). Counters, tags and headers are set aside before (`_labels`).

Limits
------
Only the domain asked for most is judged: names spread over many domains are seen in
part. What A and AAAA answers carry is not collected. A channel of less than
`_alphabets.LEAST_CHARS` characters in one direction of a flow is not decoded; most
resolvers ask each name from a new port, so that one query is one flow.

Sources: RFC 3696, section 2, and RFC 6763 for what names are made of.
"""

from __future__ import annotations

import functools
from typing import Final, NamedTuple

from exfilml.domains import registered_domain
from exfilml.payload import _alphabets, _framing, _labels
from exfilml.payload._dns_messages import (
    TEXT_BYTES,
    Messages,
    labels_of,
    read_messages,
)

# Of the bytes asked for, to count names under the main domain whose end is cut.
_MAIN_SHARE: Final = 0.9
# Characters of a label that nobody has registered: it is asked for to be read.
_UNREGISTERED: Final = 40
_DIGITS: Final = b"0123456789"


class DnsNames(NamedTuple):
    """What the DNS messages of one direction hold.

    Attributes
    ----------
    domain
        The registered domain under which most bytes of distinct names were asked, in
        small letters. ``in-addr.arpa`` and ``ip6.arpa`` are one each. Empty where
        names end in nothing that can be registered (a label with digits, as dnscat2
        asks its server directly); a public suffix where the label below it is longer
        than anyone registers.
    messages
        DNS messages read, responses included.
    responses
        How many of them are responses: the names there are those of the questions.
    strays
        Bytes of packets at the start of the stream that are no DNS message.
    unique
        Distinct names under `domain`, regardless of case.
    longest
        Longest label below `domain`, in bytes.
    carried
        Bytes of labels below `domain` over distinct names, dots not counted. The
        upload seen, a lower bound.
    text
        Those labels, one behind the other in order of first appearance, `TEXT_BYTES`
        at most.
    encoding
        ``hex | base16 | base32 | base36 | base62 | base64 | base128 | binary`` where
        the labels are written in an alphabet that ordinary names are not, else None.
        Names that are hashes (of content networks, of virus scanners) are written in
        one too: what is usual here, a baseline must say.
    data
        The bytes behind `encoding`, without what `_labels` sets aside; None without
        an encoding. Fit for a test of randomness; a lower bound of the upload.
    answers
        Data of TXT, NULL, CNAME, MX and SRV answers, `TEXT_BYTES` at most: the
        download.
    """

    domain: str
    messages: int
    responses: int
    strays: int
    unique: int
    longest: int
    carried: int
    text: bytes
    encoding: str | None
    data: bytes | None
    answers: bytes


def read(
    head: bytes,
    packets: tuple[int, ...],
    slices: bytes,
    width: int,
    *,
    stream: bool,
) -> DnsNames | None:
    """Read the DNS messages of one direction.

    Parameters
    ----------
    head
        First payload bytes, packets one behind the other.
    packets
        Payload bytes of each packet of `head`; empty where that is not known, then
        messages are read one behind the other by their own counts.
    slices
        Starts of later packets, `width` bytes each. A name that is cut there counts
        as far as it is seen, if the other names leave no doubt about the domain.
    stream
        TCP: each message is preceded by its length.

    Returns
    -------
    DnsNames or None
        None if nothing is a DNS message. Defined for any bytes.
    """
    seen = read_messages(head, packets, slices, width, stream=stream)
    return _judge(seen) if seen.messages else None


def _judge(seen: Messages) -> DnsNames:
    """Group the names by domain and judge those of the main one."""
    if len(seen.names) == 1 and not seen.cut:
        # One query is the most common flow of all: what is known of its name.
        ((key, name),) = seen.names.items()
        domain, below = place(key)[:2]
        labels = [labels_of(name[:below])]
        keeps_case = key == name or _one_case(name[below:])
    else:
        domain, labels, keeps_case = _main(seen)
    flat = [label for name in labels for label in name]
    text = b"".join(flat)
    encoding, data = None, None
    if not is_settled(domain, len(text)):
        encoding, data = _decode(
            _labels.without_counters(labels), keeps_case=keeps_case
        )
    return DnsNames(
        domain,
        seen.messages,
        seen.responses,
        seen.strays,
        len(labels),
        max(map(len, flat), default=0),
        len(text),
        text[:TEXT_BYTES],
        encoding,
        data,
        seen.answers[:TEXT_BYTES],
    )


def _main(seen: Messages) -> tuple[str, list[list[bytes]], bool]:
    """Find the main domain; return it, the labels below it in each name, and case.

    Case is kept where the domain itself shows one case only.
    """
    sizes: dict[str, int] = {}
    places = {key: place(key)[:2] for key in seen.names}
    for key, (domain, _) in places.items():
        sizes[domain] = sizes.get(domain, 0) + len(key)
    main = max(sizes, key=lambda d: (sizes[d], d)) if sizes else ""
    pieces, tail, keeps_case = [], b"", True
    for key, name in seen.names.items():
        domain, below = places[key]
        if domain == main:
            pieces.append(name[:below])
            tail = key[below:]
            keeps_case = keeps_case and _one_case(name[below:])
    if not sizes or sizes[main] >= _MAIN_SHARE * sum(sizes.values()):
        # A name seen as far as another was seen already is not counted again.
        for key, name in seen.cut.items():
            if not any(other.startswith(key) for other in seen.names):
                pieces.append(_without_tail(name, key, tail))
    return main, [labels_of(piece) for piece in pieces], keeps_case


@functools.lru_cache(maxsize=4096)
def place(key: bytes) -> tuple[str, int, int, int]:
    """Say where a name stands.

    Returns the domain, the wire bytes below it, those of them that are no lengths, and
    the longest label there.
    """
    labels = labels_of(key)
    if not labels:
        return "", 0, 0, 0
    last = labels[-1]
    if last == b"arpa":
        domain, above = b".".join(labels[-2:]).decode("latin-1"), 2
    elif last.translate(None, _DIGITS) != last and last[:4] != b"xn--":
        # No top-level domain has digits (RFC 3696, section 2).
        domain, above = "", 0
    else:
        # A dot within a label is no border of labels.
        text = b".".join([label.replace(b".", b"_") for label in labels])
        name = text.decode("latin-1")
        domain = registered_domain(name) or name
        above = domain.count(".") + 1
        if len(domain) >= _UNREGISTERED and len(labels[-above:][0]) >= _UNREGISTERED:
            domain, above = domain.partition(".")[2], above - 1
    below = labels[: len(labels) - above]
    carried = sum(map(len, below))
    return domain, carried + len(below), carried, max(map(len, below), default=0)


def is_settled(domain: str, carried: int) -> bool:
    """Whether letters below a domain are not asked for an alphabet."""
    return carried < _alphabets.LEAST_CHARS or domain.endswith(".arpa")


def _one_case(wire: bytes) -> bool:
    return wire in (wire.lower(), wire.upper())


def _without_tail(name: bytes, key: bytes, tail: bytes) -> bytes:
    """Drop what is seen of the domain at the end of a name that is cut."""
    at = 0
    while at < len(key):
        if tail.startswith(key[at:]):
            return name[:at]
        at += 1 + key[at]
    return name


def _decode(texts: list[bytes], *, keeps_case: bool) -> tuple[str | None, bytes | None]:
    """Name the alphabet of the texts and decode them, headers set aside."""
    if _alphabets.is_ordinary(texts):
        return None, None
    found = _alphabets.recognise(texts, keeps_case=keeps_case)
    skip, drop = (
        _labels.columns(texts),
        _labels.columns([text[::-1] for text in texts]),
    )
    if skip or drop:
        framed = _alphabets.recognise(
            [text[skip : len(text) - drop] for text in texts], keeps_case=keeps_case
        )
        if framed is not None and (
            found is None or _framing.is_better(framed[1], found[1])
        ):
            found = framed
    return (None, None) if found is None else found
