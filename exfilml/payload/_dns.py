"""What DNS names carry: questions grouped by the domain their sender asked under.

A query is a message to whoever owns the domain: all that stands below the registered
domain reaches its name server, through any resolver. `read` collects the distinct
names of one direction, counts what they hold below the domain asked for most, and
decodes it where it is written in an alphabet that ordinary names are not
(`_alphabets`).

What is set aside before decoding
---------------------------------
Names of a tunnel hold more than data: counters, session numbers, fixed tags. They
repeat or increase, and ciphertext beside them would look as if it did. Left out of
`DnsNames.data`, but not of `DnsNames.carried`, are, in this order:

1. labels that more than half of the names share (and two at least): a tag;
2. where labels of `_LONG` characters or more hold most of the characters, labels of
   `_SHORT` or fewer: counters, session numbers, the rest of the last piece;
3. elsewhere the first or the last label of each name, if in at least `_COUNTED` names
   it increases from name to name, by length and then by letter, nine times of ten:
   a counter to any base;
4. the first columns of what is left, up to the last that repeats from name to name
   more often than random letters can (p < 1e-6, `_kernel.collision_tail`, at least
   `_kernel.FRAME_SLICES` names), and likewise the last columns: headers within a
   label, as `_kernel.frame_columns` finds them in slices. Columns of text repeat as
   well, so that this is done only where ciphertext stands behind (`_framing`).

With less than `_kernel.FRAME_SLICES` names a header inside a label cannot be told from
data and stays.

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
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from exfilml.domains import registered_domain
from exfilml.payload import _alphabets, _framing, _kernel
from exfilml.payload._dns_messages import (
    TEXT_BYTES,
    Messages,
    labels_of,
    read_messages,
)

_LONG: Final = 16
_SHORT: Final = 8
_COUNTED: Final = 6
_COLUMNS: Final = 24
_COLUMN_P: Final = 1e-6
_MAIN_SHARE: Final = 0.9
_UNREGISTERED: Final = 40

_DIGITS: Final = b"0123456789"


@dataclass(frozen=True, slots=True)
class DnsNames:
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
    entropy
        Plug-in Shannon entropy of the characters below `domain`, bits per character;
        nan for none.
    carried
        Characters that `entropy` is of: bytes of labels below `domain` over distinct
        names, dots not counted. The upload seen, a lower bound.
    text
        Those labels, one behind the other in order of first appearance, `TEXT_BYTES`
        at most.
    encoding
        ``hex | base16 | base32 | base36 | base62 | base64 | base128 | binary`` where
        the labels are written in an alphabet that ordinary names are not, else None.
        Names that are hashes (of content networks, of virus scanners) are written in
        one too: what is usual here, a baseline must say.
    data
        The bytes behind `encoding`, without what the module sets aside; None without
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
    entropy: float
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
        domain, below, longest, entropy = _place(key)
        labels = [labels_of(name[:below])]
        keeps_case = key == name or _one_case(name[below:])
        text = b"".join(labels[0])
        if key != name and keeps_case:
            entropy = _entropy(text)
    else:
        domain, labels, keeps_case = _main(seen)
        longest = max([len(label) for name in labels for label in name], default=0)
        text = b"".join([label for name in labels for label in name])
        entropy = _entropy(text if keeps_case else text.lower())
    encoding, data = None, None
    if len(text) >= _alphabets.LEAST_CHARS and not domain.endswith(".arpa"):
        encoding, data = _decode(_content(labels), keeps_case=keeps_case)
    return DnsNames(
        domain,
        seen.messages,
        seen.responses,
        seen.strays,
        len(labels),
        longest,
        entropy,
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
    places = {key: _place(key) for key in seen.names}
    for key, (domain, *_) in places.items():
        sizes[domain] = sizes.get(domain, 0) + len(key)
    main = max(sizes, key=lambda d: (sizes[d], d)) if sizes else ""
    pieces, tail, keeps_case = [], b"", True
    for key, name in seen.names.items():
        domain, below, *_ = places[key]
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
def _place(key: bytes) -> tuple[str, int, int, float]:
    """Return domain, wire bytes below it, longest label and entropy there."""
    labels = labels_of(key)
    if not labels:
        return "", 0, 0, math.nan
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
    longest = max(map(len, below), default=0)
    size = sum(map(len, below)) + len(below)
    return domain, size, longest, _entropy(b"".join(below))


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


def _entropy(text: bytes) -> float:
    """Plug-in Shannon entropy, bits per character."""
    size = len(text)
    if not size:
        return math.nan
    logs = sum([n * math.log2(n) for n in Counter(text).values()])
    return math.log2(size) - logs / size


def _content(names: list[list[bytes]]) -> list[bytes]:
    """Set aside what is no data, as the module says; return the rest of each name."""
    if len(names) > 1:
        shared = Counter([x for name in names for x in {x.lower() for x in name}])
        tags = {x for x, n in shared.items() if n > 1 and 2 * n > len(names)}
        names = [[x for x in name if x.lower() not in tags] for name in names]
    sizes = [len(x) for name in names for x in name]
    if 2 * sum([n for n in sizes if n >= _LONG]) > sum(sizes):
        names = [[x for x in name if len(x) > _SHORT] for name in names]
    else:
        for side in (0, -1):
            if _counts_up([name[side] for name in names if len(name) > 1]):
                names = [_without(name, side) for name in names]
    return [b"".join(name) for name in names]


def _decode(texts: list[bytes], *, keeps_case: bool) -> tuple[str | None, bytes | None]:
    """Name the alphabet of the texts and decode them, headers set aside."""
    if _alphabets.is_ordinary(texts):
        return None, None
    found = _alphabets.recognise(texts, keeps_case=keeps_case)
    skip, drop = _columns(texts), _columns([text[::-1] for text in texts])
    if skip or drop:
        framed = _alphabets.recognise(
            [text[skip : len(text) - drop] for text in texts], keeps_case=keeps_case
        )
        if framed is not None and (
            found is None or _framing.is_better(framed[1], found[1])
        ):
            found = framed
    return (None, None) if found is None else found


def _without(name: list[bytes], side: int) -> list[bytes]:
    if len(name) < 2:
        return name
    return name[1:] if side == 0 else name[:-1]


def _counts_up(labels: Sequence[bytes]) -> bool:
    """Whether labels increase from name to name."""
    if len(labels) < _COUNTED:
        return False
    keys = [(len(x), x.lower()) for x in labels]
    steps = sum([a < b for a, b in pairwise(keys)])
    return steps >= 0.9 * (len(labels) - 1)


def _columns(texts: Sequence[bytes]) -> int:
    """How many of the first columns hold a header, 0 for none."""
    cells = max(16, len(set(b"".join(texts).lower())))
    header = 0
    for column in range(_COLUMNS):
        letters = [text[column] for text in texts if column < len(text)]
        size = len(letters)
        if size < _kernel.FRAME_SLICES:
            break
        pairs = sum([n * (n - 1) for n in Counter(letters).values()]) / 2
        if _kernel.collision_tail(pairs, size, cells, True) < _COLUMN_P:
            header = column + 1
    return header
