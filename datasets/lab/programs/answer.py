"""Servers that no package has, in one process of the internet namespace.

    answer.py CONFIG.json

CONFIG is a list of ``{"kind", "ip", "port"}``: ``sink`` (tcp: reads and forgets),
``chatty`` (tcp: random bytes back after each read), ``deaf`` (udp: reads and forgets),
``mirror`` (udp: RTP back of the same size), ``murmur`` (udp: random bytes back) and
``namer`` (udp: answers every question with nothing).
A WebSocket server listens on 127.0.0.1:8090, behind nginx.
"""

import asyncio
import json
import os
import random
import socket
import sys
from pathlib import Path

SO_RCVBUFFORCE = 33  # linux/socket.h; Python has no name for it


async def _sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.read(1 << 20):
            pass
    except OSError:
        pass
    writer.close()


async def _chatty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.read(1 << 16):
            writer.write(os.urandom(min(3000, int(random.lognormvariate(5, 0.8)) + 16)))
    except OSError:
        pass
    writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self.kind == "namer":
            # No such record, says the server of the domain.
            answer = data[:2] + b"\x84\0" + data[4:]
        elif self.kind == "murmur":
            answer = os.urandom(random.randint(24, 220))
        elif self.kind == "mirror":
            stun = data[:2] == b"\0\1"
            answer = (
                b"\1\1\0\x0c" + data[4:20] + b"\0\x20\0\x08\0\1" + os.urandom(6)
                if stun
                else data[:8] + b"lab!" + os.urandom(len(data) - 12)
            )
        else:
            return
        self.transport.sendto(answer, addr)


async def _socket(connection: object) -> None:
    async for message in connection:
        if isinstance(message, str):
            await connection.send(json.dumps({"type": "ack", "n": len(message)}))


async def _main(entries: list[dict[str, object]]) -> None:
    import websockets

    loop = asyncio.get_running_loop()
    for entry in entries:
        kind, ip, port = entry["kind"], entry["ip"], entry["port"]
        if kind in ("sink", "chatty"):
            handle = _sink if kind == "sink" else _chatty
            await asyncio.start_server(handle, ip, port, limit=1 << 20)
            continue
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 23)
        receiver.bind((ip, port))
        receiver.setblocking(False)
        await loop.create_datagram_endpoint(
            lambda kind=kind: _Datagrams(kind), sock=receiver
        )
    async with websockets.serve(
        _socket, "127.0.0.1", 8090, max_size=1 << 26, compression=None
    ):
        await asyncio.Future()


if __name__ == "__main__":
    asyncio.run(_main(json.loads(Path(sys.argv[1]).read_text())))
