"""What claims are: addresses, networks, names and fingerprints, or nothing to match.

Texts are read as people send them: ``hxxp://``, ``1[.]2``, ``evil(dot)example``.

Refused, because they would match what everybody does, are the site's own addresses,
networks of special use that traffic of a site carries (IANA's registries, RFC 6890:
private, shared, loopback, link-local, multicast, reserved), networks shorter than /8
(version 4) or /16 (version 6), and public suffixes: below ``co.uk`` everyone has a
name. A suffix of the list's private part, such as a host for the sites of others, is
matched alone, without the names below it, unless it is written ``*.suffix``. Networks
set aside for documentation and benchmarks are allowed: they occur in laboratories only.

A URL stands for its host, and for no name below it: flows show no paths.

One file because what a text is, and why it is refused, is one decision.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exfilml.domains import are_public_suffixes, is_public_suffix
from exfilml.networks import SPECIAL_NETWORKS
from exfilml.triage._ranges import MAPPED, fours, six_bounds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exfilml.triage._account import Account

NO_INDICATOR: Final = "entries that are no indicator"
_SHORTEST: Final = {4: 8, 6: 16}

_OCTET: Final = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_FOUR: Final = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_LABEL: Final = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_PORT: Final = "(?::(?P<port>[0-9]{1,5}))?"
# A top-level domain is no number (RFC 1123, section 2.1).
_TOP: Final = "(?:[a-z][a-z0-9-]{0,61}[a-z0-9]|[a-z])"
_IS_FOUR: Final = (
    rf"^(?P<value>{_FOUR})(?:/(?P<length>[0-9]|[12][0-9]|3[0-2]))?{_PORT}\z"
)
_IS_NAME: Final = rf"^(?P<star>\*?\.)?(?P<value>(?:{_LABEL}\.)+{_TOP})\.?{_PORT}\z"
_IS_URL: Final = (
    r"^(?:[a-z][a-z0-9+.-]*:)?//(?:[^/?#@]*@)?(?P<value>\[[^\]]*\]|[^/:?#\[\]]*)"
    r"(?::[0-9]*)?(?:[/?#](?s:.*))?\z"
)
_IS_PRINT: Final = r"^(?:[0-9a-f]{32}|[tqd][0-9sd][0-9][di][0-9]{4}[a-z0-9]{2}_[0-9a-f]{12}_[0-9a-f]{12})\z"
_IS_HASH: Final = (
    r"^(?:[0-9a-f]{40}|[0-9a-f]{56}|[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})\z"
)
_IS_SPAN: Final = rf"^{_FOUR}\s*-\s*{_FOUR}\z"
_IS_MAIL: Final = r"^[^@\s/]+@[^@\s/]+\z"
_DEFANGED: Final = r"[\[({]|\\\.|^\s*(?i:hxxp|fxp|meow)"


@dataclass(frozen=True, slots=True, eq=False)
class Nets:
    """Addresses and networks of one family.

    Attributes
    ----------
    row
        int64: which claim each is.
    first, last
        Keys as `exfilml.triage._ranges` has them.
    length
        int64, of the prefix.
    port
        int64: the port it is about, 0 for any.
    is_url
        bool: it is the host of a URL.
    """

    row: NDArray[np.int64]
    first: NDArray[Any]
    last: NDArray[Any]
    length: NDArray[np.int64]
    port: NDArray[np.int64]
    is_url: NDArray[np.bool_]

    @property
    def columns(self) -> tuple[NDArray[Any], ...]:
        """All of it, in the order above."""
        return (
            *(self.row, self.first, self.last, self.length),
            *(self.port, self.is_url),
        )

    def where(self, kept: NDArray[np.bool_]) -> Nets:
        """Return some of them."""
        return Nets(*(column[kept] for column in self.columns))

    def joined(self, other: Nets) -> Nets:
        """Return these and others."""
        pairs = zip(self.columns, other.columns, strict=True)
        return Nets(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True, slots=True, eq=False)
class Named:
    """Host names, or fingerprints.

    Attributes
    ----------
    row
        int64: which claim each is.
    value
        Arrow texts in lower case.
    port
        int64: the port it is about, 0 for any.
    is_url
        bool: it is the host of a URL.
    alone, below
        bool: whether the name itself matches, and the names below it.
    """

    row: NDArray[np.int64]
    value: Any
    port: NDArray[np.int64]
    is_url: NDArray[np.bool_]
    alone: NDArray[np.bool_]
    below: NDArray[np.bool_]

    def where(self, kept: NDArray[np.bool_]) -> Named:
        """Return some of them."""
        return Named(
            row=self.row[kept],
            value=self.value.filter(pa.array(kept)),
            port=self.port[kept],
            is_url=self.is_url[kept],
            alone=self.alone[kept],
            below=self.below[kept],
        )

    def joined(self, other: Named) -> Named:
        """Return these and others."""
        return Named(
            row=np.concatenate([self.row, other.row]),
            value=pa.concat_arrays([self.value, other.value]),
            port=np.concatenate([self.port, other.port]),
            is_url=np.concatenate([self.is_url, other.is_url]),
            alone=np.concatenate([self.alone, other.alone]),
            below=np.concatenate([self.below, other.below]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What can be matched of the claims of a file.

    Attributes
    ----------
    shown
        Arrow texts of all claims, as people read them.
    four, six
        `Nets` of the two families.
    names, prints
        `Named`: hosts and fingerprints.
    """

    shown: Any
    four: Nets
    six: Nets
    names: Named
    prints: Named

    def __len__(self) -> int:
        parts = (self.four, self.six, self.names, self.prints)
        return sum(len(part.row) for part in parts)


@dataclass(slots=True, eq=False)
class _Sieve:
    """Texts of claims, of which less and less is left."""

    file: str
    account: Account
    text: Any
    port: NDArray[np.int64]
    is_url: NDArray[np.bool_]
    row: NDArray[np.int64]

    def take(self, mask: Any) -> _Sieve:
        """Take the texts out that a mask selects."""
        mask = pc.fill_null(mask, fill_value=False)
        kept = mask.to_numpy(zero_copy_only=False)
        taken = _Sieve(
            *(self.file, self.account, self.text.filter(mask)),
            *(self.port[kept], self.is_url[kept], self.row[kept]),
        )
        self.text = self.text.filter(pc.invert(mask))
        self.port, self.is_url = self.port[~kept], self.is_url[~kept]
        self.row = self.row[~kept]
        return taken

    def match(self, pattern: str) -> _Sieve:
        """Take the texts out that an expression of RE2 matches."""
        return self.take(pc.match_substring_regex(self.text, pattern))

    def leave_out(self, reason: str, *, is_news: bool = True) -> None:
        """Count all that is left."""
        if len(self.text):
            n, first = len(self.text), self.text[0].as_py()
            self.account.add(self.file, reason, n, first, is_news=is_news)

    def __len__(self) -> int:
        return len(self.text)


def find(claims: pa.Table, file: str, home: tuple[str, ...], account: Account) -> Found:
    """Say what the claims of a file are, and count those that are nothing.

    Parameters
    ----------
    claims
        Of `exfilml.triage._claims.SCHEMA`.
    file
        Its name.
    home
        The site's own networks, as `exfilml.places.parse_networks` gives them; none
        if they are not known.
    account
        Of what is left out.
    """
    shown = _refanged(pc.utf8_trim_whitespace(_one(claims["text"])))
    hint = _one(claims["hint"])
    port = _one(claims["port"]).fill_null(0).to_numpy(zero_copy_only=False)
    is_url = pc.fill_null(pc.equal(hint, "url"), fill_value=False)
    sieve = _Sieve(
        *(file, account, pc.utf8_lower(shown), port.astype(np.int64)),
        *(is_url.to_numpy(zero_copy_only=False), np.arange(len(shown))),
    )
    claimed = sieve.take(pc.equal(hint, "fingerprint"))
    prints = claimed.match(r"^[a-z0-9_,.:-]{1,255}\z")
    claimed.leave_out("fingerprints that are none")
    _hosts_of_urls(sieve)
    as_it_is = np.zeros(len(shown), dtype=bool)
    as_it_is[sieve.row] = sieve.is_url
    plain = pc.utf8_rtrim(pc.utf8_lower(shown), ".")
    shown = pc.if_else(pa.array(as_it_is), shown, plain)
    four = _four(sieve)
    six, mapped = _six(sieve)
    more = sieve.match(_IS_PRINT)
    named = _named(prints).joined(_named(more))
    names = _names(sieve)
    if len(sieve):
        is_mail = sieve.match(_IS_MAIL)
        is_mail.leave_out("mail addresses", is_news=False)
        sieve.match(_IS_HASH).leave_out("hashes of files", is_news=False)
        sieve.leave_out(NO_INDICATOR)
    return Found(
        shown,
        _refused(four.joined(mapped), 4, home, shown, file, account),
        _refused(six, 6, home, shown, file, account),
        names,
        named,
    )


def _one(column: Any) -> Any:
    """Return a table's column as one array."""
    whole = column.combine_chunks()
    return whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole


def _refanged(texts: Any) -> Any:
    """Undo what people do to indicators so that nobody clicks on them."""
    defanged = pc.match_substring_regex(texts, _DEFANGED)
    if not pc.any(defanged).as_py():
        return texts
    some = texts.filter(defanged)
    for pattern, plain in (
        (r"(?i)\s*[\[({]\s*(?:\.|dot)\s*[\])}]\s*", "."),
        (r"\s*[\[({]\s*(:(?://)?|/+)\s*[\])}]\s*", r"\1"),
        (r"\\\.", "."),
        (r"(?i)^(?:hxxp|meow)", "http"),
        (r"(?i)^fxp", "ftp"),
    ):
        some = pc.replace_substring_regex(some, pattern, plain)
    return pc.replace_with_mask(texts, defanged, some)


def _hosts_of_urls(sieve: _Sieve) -> None:
    """Put hosts in the place of URLs."""
    text = sieve.text
    # `host/path` is a URL too, unless it is a network.
    bare = pc.and_(
        pc.match_substring_regex(text, r"^[^/\s]+/"),
        pc.invert(pc.match_substring_regex(text, r"^[^/]+/[0-9]{1,3}\z")),
    )
    bare = pc.and_(bare, pc.invert(pc.match_substring_regex(text, r"^[^/]*:/+")))
    text = pc.if_else(bare, pc.binary_join_element_wise("//", text, ""), text)
    found = pc.extract_regex(text, _IS_URL)
    is_found = pc.is_valid(found)
    sieve.text = pc.if_else(is_found, pc.struct_field(found, "value"), sieve.text)
    # A long hint, but nothing of a URL, is a host of its own.
    sieve.is_url |= is_found.to_numpy(zero_copy_only=False)


def _ports(sieve: _Sieve, texts: Any, kept: Any) -> NDArray[np.int64]:
    """Return the ports that follow hosts, else those that the file names."""
    given = pc.if_else(pc.equal(texts, ""), "0", texts).cast(pa.int64())
    written = given.to_numpy(zero_copy_only=False)
    ports = np.where(written > 0, written, sieve.port)
    return np.where(kept, ports, 0)


def _four(sieve: _Sieve) -> Nets:
    """Take addresses and networks of version 4."""
    taken = sieve.match(_IS_FOUR)
    parts = pc.extract_regex(taken.text, _IS_FOUR)
    first = fours(pc.struct_field(parts, "value"))
    lengths = pc.struct_field(parts, "length")
    length = pc.if_else(pc.equal(lengths, ""), "32", lengths).cast(pa.int64())
    length = length.to_numpy(zero_copy_only=False)
    port = _ports(taken, pc.struct_field(parts, "port"), np.True_)
    free = ((np.uint64(1) << (32 - length).astype(np.uint64)) - np.uint64(1)).astype(
        np.uint32
    )
    good = ((first & free) == 0) & (port < 65536)
    _count_odd(taken, good)
    nets = Nets(taken.row, first, first | free, length, port, taken.is_url).where(good)
    return nets.joined(_spans(sieve))


def _count_odd(taken: _Sieve, good: NDArray[np.bool_]) -> None:
    bad = int((~good).sum())
    if bad:
        first = taken.text[int((~good).argmax())].as_py()
        reason = "entries whose prefix, port or length cannot be"
        taken.account.add(taken.file, reason, bad, first)


def _spans(sieve: _Sieve) -> Nets:
    """Take spans of addresses, from one to another."""
    taken = sieve.match(_IS_SPAN)
    rows: list[tuple[Any, ...]] = []
    odd = np.zeros(len(taken), dtype=bool)
    for at, text in enumerate(taken.text.to_pylist()):
        begin, _, end = text.partition("-")
        ends = [ipaddress.IPv4Address(t.strip()) for t in (begin, end)]
        if ends[0] > ends[1]:
            odd[at] = True
            continue
        about = (taken.port[at], taken.is_url[at])
        if int(ends[1]) - int(ends[0]) >= 1 << 32 - _SHORTEST[4]:
            # As wide as a network that is refused, and refused with those.
            rows.append((taken.row[at], *map(int, ends), 0, *about))
            continue
        for net in ipaddress.summarize_address_range(*ends):
            low, high = int(net[0]), int(net[-1])
            rows.append((taken.row[at], low, high, net.prefixlen, *about))
    if odd.any():
        reason = "spans that end before they begin"
        first = taken.text[int(odd.argmax())].as_py()
        taken.account.add(taken.file, reason, int(odd.sum()), first)
    return _nets(rows, np.uint32)


def _nets(rows: list[tuple[Any, ...]], key: Any) -> Nets:
    columns = list(zip(*rows, strict=True)) or [()] * 6
    kinds = (np.int64, key, key, np.int64, np.int64, np.bool_)
    return Nets(*(np.array(c, k) for c, k in zip(columns, kinds, strict=True)))


def _six(sieve: _Sieve) -> tuple[Nets, Nets]:
    """Take addresses and networks of version 6, and of version 4 in its form."""
    taken = sieve.match(r"^\[?[0-9a-f]*:[0-9a-f]*:[0-9a-f:.]*(?:/[0-9]{1,3})?(\]|\z)")
    rows: list[tuple[Any, ...]] = []
    mapped: list[tuple[Any, ...]] = []
    good = np.zeros(len(taken), dtype=bool)
    for at, text in enumerate(taken.text.to_pylist()):
        host, _, port = text.removeprefix("[").partition("]")
        bounds = six_bounds(host)
        written = port.removeprefix(":")
        if bounds is None or (written and not written.isdecimal()):
            continue
        about = (int(written[:6] or taken.port[at]), taken.is_url[at])
        if about[0] > 65535:
            continue
        good[at] = True
        first, last, length = bounds
        if first.startswith(MAPPED) and length >= 96:
            low, high = (int.from_bytes(key[12:], "big") for key in (first, last))
            mapped.append((taken.row[at], low, high, length - 96, *about))
        else:
            rows.append((taken.row[at], first, last, length, *about))
    _count_odd(taken, good)
    return _nets(rows, "S16"), _nets(mapped, np.uint32)


def _named(taken: _Sieve) -> Named:
    """Return fingerprints as they are."""
    all_, none = np.ones(len(taken), dtype=bool), np.zeros(len(taken), dtype=bool)
    # A port says nothing about a fingerprint.
    return Named(taken.row, taken.text, none.astype(np.int64), none, all_, none)


def _names(sieve: _Sieve) -> Named:
    """Take host names."""
    _to_ascii(sieve)
    taken = sieve.match(_IS_NAME)
    parts = pc.extract_regex(taken.text, _IS_NAME)
    value = pc.struct_field(parts, "value")
    has_star = pc.not_equal(pc.struct_field(parts, "star"), "")
    star = has_star.to_numpy(zero_copy_only=False)
    port = _ports(taken, pc.struct_field(parts, "port"), np.True_)
    good = (port < 65536) & (pc.binary_length(value).to_numpy() <= 253)
    _count_odd(taken, good)
    private, public = _suffixes(value)
    if public.any():
        reason = "public suffixes, below which everyone has names"
        first = value[int(public.argmax())].as_py()
        sieve.account.add(sieve.file, reason, int(public.sum()), first)
    alone = ~star
    below = ~taken.is_url & (~private | star)
    names = Named(taken.row, value, port, taken.is_url, alone, below)
    return names.where(good & ~public)


def _suffixes(names: Any) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say which names are suffixes of the list's private part, and which public."""
    found = are_public_suffixes(names)
    private = np.zeros(len(names), dtype=bool)
    public = np.zeros(len(names), dtype=bool)
    for at in np.flatnonzero(found).tolist():
        (public if is_public_suffix(names[at].as_py()) else private)[at] = True
    return private, public


def _to_ascii(sieve: _Sieve) -> None:
    """Put the form that packets carry in the place of international names."""
    foreign = pc.invert(pc.string_is_ascii(sieve.text))
    if not pc.any(foreign).as_py():
        return
    plain = []
    for text in sieve.text.filter(foreign).to_pylist():
        try:
            plain.append(text.encode("idna").decode("ascii").lower())
        except UnicodeError:
            plain.append(text)
    plain = pa.array(plain, pa.string())
    sieve.text = pc.replace_with_mask(sieve.text, foreign, plain)


def _refused(
    nets: Nets,
    version: int,
    home: tuple[str, ...],
    shown: Any,
    file: str,
    account: Account,
) -> Nets:
    """Leave out networks that would match what everybody does, and count them."""
    kept = np.ones(len(nets.row), dtype=bool)
    shortest = _SHORTEST[version]
    reasons = (
        ("networks larger than /8 (version 6: /16)", nets.length < shortest),
        ("entries with addresses of the site's own", _overlap(nets, version, home)),
        (
            "addresses of special use (private, loopback, multicast, reserved)",
            _overlap(nets, version, SPECIAL_NETWORKS),
        ),
    )
    for reason, mask in reasons:
        # A span of addresses is several networks, but one entry.
        refused = kept & np.isin(nets.row, nets.row[mask])
        if refused.any():
            first = shown[int(nets.row[int(refused.argmax())])].as_py()
            account.add(file, reason, len(np.unique(nets.row[refused])), first)
        kept &= ~refused
    return nets.where(kept)


def _overlap(nets: Nets, version: int, networks: tuple[str, ...]) -> NDArray[np.bool_]:
    """Say which networks share an address with one of some others."""
    found = np.zeros(len(nets.row), dtype=bool)
    for text in networks:
        network = ipaddress.ip_network(text)
        if network.version == version:
            ends: tuple[Any, Any] = (network[0].packed, network[-1].packed)
            if version == 4:
                ends = (int(network[0]), int(network[-1]))
            low, high = (np.array(end, nets.first.dtype) for end in ends)
            found |= (nets.first <= high) & (nets.last >= low)
    return found
