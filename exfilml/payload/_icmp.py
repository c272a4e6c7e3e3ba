"""What ICMP echo carries: data that is no filler and does not repeat.

Programs fill echo requests with a timestamp and a constant pattern, so an honest
ping says next to nothing after its first packet. `read` counts what is left when
fillers, repetitions and messages that are no echo are set aside.

Fillers are known by their form (`_icmp_forms`), from the first byte on or behind a
prefix of up to `PREFIX` bytes. The prefix is exempt while it looks like a clock: a
prefix of which more than `_CLOCK` columns differ in most messages is data.

Limits
------
A prefix of up to `_CLOCK` bytes before an honest filler is a channel that is not
seen, and less than `_FEW` prefixes say nothing of a clock. A tunnel of whole IP packets has the form of quotes; `Echo.quoted_source` tells
who sent the quoted packets, which for an honest error is the address that the error
is sent to, and `read` can be asked to take nothing for a quote.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

import numpy as np

from exfilml.payload import _framing, _kernel
from exfilml.payload import _icmp_forms as _forms
from exfilml.payload._icmp_forms import LEAST_FILLER, PERIOD, PREFIX
from exfilml.payload._sampling import KEPT_HEAD

_START: Final = 64
_CLOCK: Final = 8
_LEAST_REST: Final = 16
_LEAST_CUT: Final = 32
_PADDING: Final = 8
_FEW: Final = 4


class Echo(NamedTuple):
    """What the ICMP payload of one direction holds.

    Attributes
    ----------
    messages
        Messages with payload that were seen, at least in part.
    fillers
        Those that are a known filler.
    repeats
        Those that repeat an earlier one, apart from the prefix.
    quotes
        Those that quote an IP packet: errors.
    controls
        Those of neighbour discovery and group membership.
    carried
        Bytes of echo data seen that are neither filler nor repetition, padding at the
        end not counted, nor repetition within a message. A message that is cut counts
        as far as it is seen.
    data
        Those bytes, in order, to be judged: without headers that the messages begin
        with (`_kernel.frame_columns`) where ciphertext stands behind them.
    quoted_source
        Address that sent the quoted packets, packed; None without quotes or if they
        do not agree.
    """

    messages: int
    fillers: int
    repeats: int
    quotes: int
    controls: int
    carried: int
    data: bytes
    quoted_source: bytes | None


def read(
    head: bytes,
    packets: tuple[int, ...],
    slices: bytes,
    width: int,
    *,
    may_quote: bool = True,
) -> Echo:
    """Read the ICMP payload of one direction.

    Parameters
    ----------
    head
        First payload bytes, what follows the 8 bytes of the ICMP header, packets one
        behind the other.
    packets
        Payload bytes of each packet of `head`; empty where that is not known, then
        `head` is taken for one message.
    slices
        Starts of later packets, `width` bytes each.
    may_quote
        Whether messages may be errors. False counts IP packets as data: for flows
        whose quotes were not sent by the address that they go to.

    Returns
    -------
    Echo
        Defined for any bytes, also for none.
    """
    seen = _Seen()
    fillers = repeats = controls = quotes = 0
    messages = 0
    sources = set()
    for message, whole in _messages(head, packets, slices, width):
        messages += 1
        if may_quote and _forms.is_quote(message):
            quotes += 1
            at = 12 if message[0] >> 4 == 4 else 8
            sources.add(message[at : at + (4 if at == 12 else 16)])
        elif (start := _forms.filler_from(message)) >= 0:
            fillers += 1
            seen.prefixes.append(message[:start])
        elif _forms.is_control(message):
            controls += 1
        elif seen.has(message, whole=whole):
            repeats += 1
        else:
            seen.add(message, whole=whole)
    prefixes = seen.judge_prefixes()
    data = b"".join(seen.data)
    if skip := _header(seen.data):
        framed = b"".join([message[skip:] for message in seen.data])
        if _framing.is_better(framed, data):
            data = framed
    return Echo(
        messages,
        fillers,
        repeats,
        quotes,
        controls,
        sum(map(len, seen.data)) + len(prefixes),
        data + prefixes,
        sources.pop() if len(sources) == 1 else None,
    )


def echoed(
    request: bytes,
    request_packets: tuple[int, ...],
    reply: bytes,
    reply_packets: tuple[int, ...],
) -> float:
    """Share of the bytes of replies that repeat what was requested.

    Parameters
    ----------
    request, reply
        Heads of the two directions, as for `read`.
    request_packets, reply_packets
        Their packet sizes.

    Returns
    -------
    float
        1.0 for every honest ping: a reply returns the data of its request (RFC 792),
        or the start of it, where a host answers with less. nan without replies.
        Of a full head of n requests the first n replies are judged: later ones belong
        to requests that were not kept. So do some of these where requests go
        unanswered, and the share is lower than it was, unless they repeat an earlier
        request apart from the prefix.
    """
    requests = [m for m, _ in _messages(request, request_packets, b"", 0)]
    asked = dict.fromkeys(requests)
    most = len(requests) if len(request) >= KEPT_HEAD else len(reply)
    rests = [m[PREFIX:] for m in asked if len(m) >= _LEAST_CUT]
    same = total = 0
    for message, _ in islice(_messages(reply, reply_packets, b"", 0), most):
        if _forms.is_quote(message) or _forms.is_control(message):
            continue
        total += len(message)
        if message in asked:
            same += len(message)
        elif len(message) >= _LEAST_CUT:
            # Either may be the shorter, because either may be cut.
            rest = message[PREFIX:]
            if any(r.startswith(rest) or rest.startswith(r) for r in rests):
                same += len(message)
    return same / total if total else math.nan


def _messages(
    head: bytes, packets: tuple[int, ...], slices: bytes, width: int
) -> Iterator[tuple[bytes, bool]]:
    """Messages, each with whether it is seen to its end."""
    at = 0
    for size in packets or (len(head),):
        message = head[at : at + size] if size > 0 else b""
        at += len(message)
        whole = at < len(head) or (len(head) < KEPT_HEAD and size == len(message))
        # What little is seen of a message at the end of the head says nothing.
        if message and (whole or len(message) >= _LEAST_CUT or not packets):
            yield message, whole
    if width > 0:
        for at in range(0, len(slices), width):
            yield slices[at : at + width], False


class _Seen:
    """Echo data seen so far, to tell what repeats.

    Attributes
    ----------
    data
        What did not, without padding.
    prefixes
        Starts of messages that are known but for them.
    """

    __slots__ = ("data", "prefixes", "rests", "starts", "wholes")

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.prefixes: list[bytes] = []
        self.wholes: set[bytes] = set()
        self.rests: set[bytes] = set()
        self.starts: set[bytes] = set()

    def add(self, message: bytes, *, whole: bool) -> None:
        """Remember a message."""
        self.data.append(_without_padding(message))
        rest = message[PREFIX:]
        if whole:
            self.wholes.add(message)
            self.rests.add(rest)
        self.starts.add(rest[: _START - PREFIX])

    def has(self, message: bytes, *, whole: bool) -> bool:
        """Whether a message like this was seen, apart from the prefix."""
        if whole and message in self.wholes:
            return True
        rest = message[PREFIX:]
        if whole:
            known = len(rest) >= _LEAST_REST and rest in self.rests
        else:
            rest = rest[: _START - PREFIX]
            known = len(rest) >= LEAST_FILLER and (
                rest in self.starts
                or (
                    len(rest) < _START - PREFIX
                    and any(start.startswith(rest) for start in self.starts)
                )
            )
        if known:
            self.prefixes.append(message[:PREFIX])
        return known

    def judge_prefixes(self) -> bytes:
        """Return the prefixes where they are no clock."""
        distinct = list(dict.fromkeys(self.prefixes))
        if len(distinct) < _FEW:
            return b""
        varied = 0
        for column in range(PREFIX):
            values = [p[column] for p in distinct if column < len(p)]
            varied += 2 * len(set(values)) > len(distinct)
        return b"".join(distinct) if varied > _CLOCK else b""


def _header(messages: list[bytes]) -> int:
    """Length of the header that the messages begin with, 0 for none."""
    if len(messages) < _kernel.FRAME_SLICES:
        return 0
    width = min(_START, sorted(map(len, messages))[len(messages) // 2])
    starts = b"".join([m[:width] for m in messages if len(m) >= width])
    return int(_kernel.frame_columns(np.frombuffer(starts, np.uint8), width))


def _without_padding(data: bytes) -> bytes:
    """Drop a run of one byte at the end, and what repeats the start to the end."""
    short = data.rstrip(data[-1:])
    if len(data) - len(short) >= _PADDING:
        return short
    period = data.find(data[:PERIOD], 1)
    if period > 0 and data[period:] == data[:-period]:
        return data[:period]
    return data
