"""FTP: which data connections a control connection asks for, and for what file.

Sources: RFC 959 (commands, replies, PASV and PORT), RFC 1123 section 4.1.2 (how
servers really reply), RFC 2428 (EPSV and EPRT), RFC 2389 and 3659 (MLSD).

Both directions are read apart, as they were captured, and nobody knows when what was
said. Replies come in the order of commands, so that the n-th final reply answers the
n-th command; where one of them is missing, replies that only one kind of command can
have bring both back into step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

_MAX_LINES: Final = 2048
"""More lines are not walked; so many do not fit into the head that is kept."""

_UPLOADS: Final = frozenset({"STOR", "STOU", "APPE"})
_NAMED: Final = _UPLOADS | {"RETR"}
_LISTS: Final = frozenset({"LIST", "NLST", "MLSD"})
_TRANSFERS: Final = _NAMED | _LISTS
_ACTIVE: Final = frozenset({"PORT", "EPRT"})

# Replies that answer one kind of command and no other.
_TELLING: Final = {
    110: _TRANSFERS,
    125: _TRANSFERS,
    150: _TRANSFERS,
    221: frozenset({"QUIT"}),
    227: frozenset({"PASV"}),
    229: frozenset({"EPSV"}),
    234: frozenset({"AUTH"}),
    331: frozenset({"USER"}),
}
# Commands whose success is told by these replies and no others.
_SUCCESS: Final = {
    "PASV": frozenset({227}),
    "EPSV": frozenset({229}),
    **dict.fromkeys(_TRANSFERS, frozenset({110, 125, 150, 226, 250})),
}

_PORTS: Final = ("227", "229")

_COMMAND = re.compile(rb"([A-Za-z]{3,4})(?: ([^\r\n]*))?")
_REPLY = re.compile(rb"([1-5][0-9]{2})([ -])?(.*)", re.DOTALL)
_SIX = re.compile(r"(?<!\d)" + r",".join([r"(\d{1,3})"] * 6) + r"(?!\d)", re.ASCII)
_EXTENDED = re.compile(r"\(([!-~])\1\1(\d{1,5})\1\)", re.ASCII)
_UNIQUE = re.compile(r"FILE: *(\S.*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Transfer:
    """A data connection that was agreed upon, and what it was for.

    Attributes
    ----------
    address
        Address on which the data connection was awaited; None for that of the
        control connection (EPSV). It is what was said, and behind a translation of
        addresses not what the network saw.
    port
        TCP port on which it was awaited.
    upload
        Whether the client sent (STOR, STOU, APPE).
    name
        File name, without its path; "" for a listing or where none was given.
    passive
        Whether the server awaited the connection (PASV, EPSV), not the client.
    """

    address: str | None
    port: int
    upload: bool
    name: str
    passive: bool


@dataclass(frozen=True, slots=True)
class _Reply:
    code: int
    text: str


def transfers(client: bytes, server: bytes) -> tuple[Transfer, ...]:
    """Pair transfer commands with the endpoints agreed upon before them.

    Parameters
    ----------
    client, server
        First bytes of both directions of an FTP control connection.

    Returns
    -------
    tuple of Transfer
        In the order of the commands, as far as both heads reach. A command that the
        server refused (4xx or 5xx, with nothing before it) is no transfer, and one
        that the server says it could not open a connection for (425) neither; one
        that broke off later is. A transfer with an endpoint of the client's is
        believed without a reply, so that a capture of one direction still tells;
        behind the switch to TLS nothing is told.
    """
    replies = _replies(server)
    at = 1 if replies and replies[0].code == 220 else 0
    found: list[Transfer] = []
    endpoint: tuple[str | None, int, bool] | None = None
    for verb, argument in _commands(client):
        answer, at = _answer(verb, replies, at)
        code = answer[0].code if answer else 0
        if verb == "AUTH" and code == 234:
            break
        if verb in ("PASV", "EPSV"):
            # Without an answer this may be a segment that was sent twice.
            endpoint = _awaited_by_server(answer[0]) if answer else endpoint
        elif verb in _ACTIVE:
            endpoint = None if code >= 400 else _awaited_by_client(verb, argument)
        elif verb in _TRANSFERS and endpoint is not None:
            refused = code >= 400 or (answer and answer[-1].code == 425)
            if refused:
                # The agreed endpoint stands until another is agreed upon.
                continue
            name = _base(argument) if verb in _NAMED else ""
            if verb == "STOU" and answer:
                unique = _UNIQUE.search(answer[0].text)
                name = _base(unique[1]) if unique is not None else name
            address, port, passive = endpoint
            found.append(Transfer(address, port, verb in _UPLOADS, name, passive))
            endpoint = None
    return tuple(found)


def _commands(client: bytes) -> list[tuple[str, str]]:
    """Commands in upper case, with their arguments; the last line only if it ends."""
    found: list[tuple[str, str]] = []
    for line in client.split(b"\n", _MAX_LINES)[:-1]:
        # Telnet's interrupt comes in front of ABOR and STAT (RFC 959, section 4.1.3).
        command = _COMMAND.fullmatch(line.lstrip(b"\xff\xf4\xf2").rstrip(b"\r"))
        if command is None:
            # No command, but the server answers it.
            found.append(("?", ""))
        else:
            argument = (command[2] or b"").decode("utf-8", "replace")
            found.append((command[1].decode().upper(), argument))
    return found


def _replies(server: bytes) -> list[_Reply]:
    """Read replies, those of several lines (RFC 959, section 4.2) with all their text."""
    found: list[_Reply] = []
    text: list[str] = []
    code = 0
    for line in server.split(b"\n", _MAX_LINES)[:-1]:
        reply = _REPLY.fullmatch(line.rstrip(b"\r"))
        said = line.decode("utf-8", "replace").strip()
        if code:
            text.append(said)
            if reply is not None and int(reply[1]) == code and reply[2] != b"-":
                found.append(_Reply(code, "\n".join(text)))
                code = 0
        elif reply is not None:
            text = [said]
            if reply[2] == b"-":
                code = int(reply[1])
            elif not (found and found[-1].text == said and said.startswith(_PORTS)):
                # The same port twice in a row is a segment that was sent twice.
                found.append(_Reply(int(reply[1]), said))
    return found


def _answer(verb: str, replies: list[_Reply], at: int) -> tuple[list[_Reply], int]:
    """Find the replies to a command, the preliminary ones first, and where the next begin."""
    success = _SUCCESS.get(verb)
    while at < len(replies):
        code = replies[at].code
        owners = _TELLING.get(code)
        if owners is not None and verb not in owners:
            # The answer to a later command: that to this one was not captured.
            return [], at
        if success is None or code in success or code >= 400:
            break
        # The answer to a command that was not captured.
        at += 1
    start = at
    while at < len(replies) and replies[at].code < 200:
        at += 1
    at = min(at + 1, len(replies))
    return replies[start:at], at


def _awaited_by_server(reply: _Reply) -> tuple[str | None, int, bool] | None:
    """Endpoint in the reply to PASV or EPSV."""
    if reply.code == 229:
        found = _EXTENDED.search(reply.text)
        port = int(found[2]) if found is not None else 0
        return (None, port, True) if 0 < port < 65_536 else None
    if reply.code == 227:
        # RFC 1123: the parentheses may be missing.
        endpoint = _six(reply.text)
        return None if endpoint is None else (*endpoint, True)
    return None


def _awaited_by_client(verb: str, argument: str) -> tuple[str | None, int, bool] | None:
    """Endpoint in the argument of PORT or EPRT."""
    if verb == "PORT":
        endpoint = _six(argument)
        return None if endpoint is None else (*endpoint, False)
    fields = argument.strip().split(argument.strip()[:1] or "|")
    if len(fields) != 5 or not (fields[3].isascii() and fields[3].isdigit()):
        return None
    try:
        address = str(ip_address(fields[2]))
    except ValueError:
        return None
    port = int(fields[3]) if len(fields[3]) < 6 else 0
    return (address, port, False) if 0 < port < 65_536 else None


def _six(text: str) -> tuple[str, int] | None:
    """Address and port as six numbers with commas."""
    found = _SIX.search(text)
    if found is None:
        return None
    numbers = [int(number) for number in found.groups()]
    port = numbers[4] * 256 + numbers[5]
    if max(numbers) > 255 or not port:
        return None
    return ".".join(map(str, numbers[:4])), port


def _base(path: str) -> str:
    """Last element of a path."""
    return re.split(r"[/\\]", path.strip())[-1]
