"""Clients that no package has: calls, opaque protocols, and the planted carriers.

Run inside a namespace of the lab by the Python that runs the lab:

    talk.py COMMAND ARGUMENTS...

One file because each command is a handful of lines around one socket, and starting it
a thousand times must stay cheap: it imports nothing that it does not use.
"""

import os
import random
import socket
import struct
import sys
import time

BASE32 = b"abcdefghijklmnopqrstuvwxyz234567"
QTYPES = {"A": 1, "NULL": 10, "TXT": 16, "AAAA": 28}


def _read(path: str) -> bytes:
    # pathlib would double the time that Python takes to start.
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read()


def _udp(ip: str, port: int) -> socket.socket:
    connection = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    connection.connect((ip, port))
    connection.setblocking(False)
    return connection


def _swallow(connection: socket.socket) -> None:
    try:
        while connection.recv(65536):
            pass
    except OSError:
        pass


def call(ip: str, port: int, packets: int, size: int) -> None:
    """Talk RTP both ways, after a STUN binding; the payload is as random as SRTP's."""
    connection = _udp(ip, port)
    connection.send(b"\0\1\0\0\x21\x12\xa4\x42" + os.urandom(12))
    time.sleep(0.02)
    _swallow(connection)
    source, clock = os.urandom(4), random.randrange(1 << 30)
    for number in range(packets):
        sound = number % 4 == 3
        length = 90 if sound else int(size * random.uniform(0.6, 1.15))
        kind = 111 if sound else 96
        head = struct.pack("!BBHI", 0x80, kind, number & 0xFFFF, clock & 0xFFFFFFFF)
        connection.send(head + source + os.urandom(min(length, 1180)))
        clock += 3000
        time.sleep(0.001)
        _swallow(connection)


def chat(kind: str, ip: str, port: int, messages: int, size: int, pause: float) -> None:
    """Speak a protocol nobody knows: random bytes out, random bytes back."""
    if kind == "udp":
        connection = _udp(ip, port)
    else:
        connection = socket.create_connection((ip, port), 5)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(messages):
        connection.send(os.urandom(max(16, int(random.lognormvariate(0, 0.5) * size))))
        time.sleep(pause)
        if kind == "udp":
            _swallow(connection)
        else:
            connection.recv(65536)
    connection.close()


def tcp(ip: str, port: int, path: str, head: str, chunk: int, pause: float) -> None:
    """Send a file over a connection, after a head, in pieces with a pause between."""
    data = _read(path)
    connection = socket.create_connection((ip, port), 5)
    if head:
        connection.sendall(head.encode().decode("unicode_escape").encode("latin-1"))
    for at in range(0, len(data), chunk or len(data)):
        connection.sendall(data[at : at + (chunk or len(data))])
        if pause:
            time.sleep(pause)
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(5)
    while connection.recv(65536):
        pass
    connection.close()


def udp(ip: str, port: int, path: str, head: str, size: int, pause: float) -> None:
    """Send a file in datagrams, each with the same head."""
    data = _read(path)
    front = head.encode().decode("unicode_escape").encode("latin-1")
    connection = _udp(ip, port)
    for at in range(0, len(data), size):
        connection.send(front + data[at : at + size])
        time.sleep(pause)
        _swallow(connection)


def icmp(ip: str, path: str, size: int, pause: float) -> None:
    """Send a file in echo requests."""
    data = _read(path)
    connection = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    connection.connect((ip, 0))
    connection.setblocking(False)
    mark = os.getpid() & 0xFFFF
    for number, at in enumerate(range(0, len(data), size)):
        rest = struct.pack("!HH", mark, number & 0xFFFF) + data[at : at + size]
        connection.send(struct.pack("!BBH", 8, 0, _checksum(b"\x08\0" + rest)) + rest)
        time.sleep(pause)
        _swallow(connection)


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def dns(
    server: str, domain: str, path: str, code: str, kind: str, one: str, pause: float
) -> None:
    """Send a file in the names of queries, one socket for all or one for each."""
    data = _read(path)
    step = 100 if code == "base32" else 85
    connection = _udp(server, 53)
    for number, at in enumerate(range(0, len(data), step)):
        piece = data[at : at + step]
        text = piece.hex().encode() if code == "hex" else _base32(piece)
        labels = [text[i : i + 57] for i in range(0, len(text), 57)]
        labels += [b"%x" % number, *domain.encode().split(b".")]
        name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
        head = os.urandom(2) + b"\1\0\0\1\0\0\0\0\0\0"
        if one != "one":
            connection.close()
            connection = _udp(server, 53)
        connection.send(head + name + struct.pack("!HH", QTYPES[kind], 1))
        time.sleep(pause)
        _swallow(connection)


def _base32(data: bytes) -> bytes:
    bits = int.from_bytes(data, "big") << (-len(data) * 8 % 5)
    count = (len(data) * 8 + 4) // 5
    return bytes(BASE32[bits >> 5 * (count - 1 - i) & 31] for i in range(count))


def socket_talk(url: str, path: str, messages: int, pause: float) -> None:
    """Open a WebSocket; send a file in binary frames, or chat in JSON with no file."""
    import asyncio
    import json
    import ssl

    import websockets

    data = _read(path) if path else b""

    async def run() -> None:
        context = ssl.create_default_context(cafile=os.environ["CURL_CA_BUNDLE"])
        extra = {"ssl": context} if url.startswith("wss") else {}
        async with websockets.connect(url, compression=None, **extra) as connection:
            if data:
                step = -(-len(data) // messages)
                parts = [data[i : i + step] for i in range(0, len(data), step)]
            else:
                parts = [
                    json.dumps({"type": "message", "room": i % 3, "text": "word " * (
                        1 + int(random.expovariate(0.2)))})
                    for i in range(messages)
                ]  # fmt: skip
            for part in parts:
                await connection.send(part)
                await asyncio.sleep(pause)

    asyncio.run(run())


def main() -> None:
    """Dispatch."""
    command, *rest = sys.argv[1:]
    function = {
        "call": call, "chat": chat, "tcp": tcp, "udp": udp, "icmp": icmp, "dns": dns,
        "ws": socket_talk,
    }[command]  # fmt: skip
    kinds = [function.__annotations__[name] for name in function.__code__.co_varnames[
        : function.__code__.co_argcount]]  # fmt: skip
    function(*(kind(value) for kind, value in zip(kinds, rest, strict=True)))


if __name__ == "__main__":
    main()
