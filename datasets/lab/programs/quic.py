"""HTTP/3 over QUIC, both ends, with aioquic.

quic.py serve CERTIFICATE KEY ADDRESS...
quic.py get ADDRESS NAME N_BYTES...
quic.py put ADDRESS NAME FILE
"""

import asyncio
import os
import sys
from pathlib import Path

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration


class _Server(QuicConnectionProtocol):
    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        self.http = None

    def quic_event_received(self, event: object) -> None:
        if self.http is None:
            self.http = H3Connection(self._quic)
        for part in self.http.handle_event(event):
            if isinstance(part, (HeadersReceived, DataReceived)) and part.stream_ended:
                path = getattr(self, "path", b"/")
                if isinstance(part, HeadersReceived):
                    path = dict(part.headers)[b":path"]
                wanted = path.rpartition(b"/")[2]
                body = os.urandom(int(wanted)) if wanted.isdigit() else b"stored"
                head = [(b":status", b"200"), (b"content-type", b"video/mp4")]
                self.http.send_headers(part.stream_id, head)
                self.http.send_data(part.stream_id, body, end_stream=True)
        self.transmit()


class _Client(QuicConnectionProtocol):
    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        self.http = H3Connection(self._quic)
        self.waiting: dict[int, asyncio.Future[None]] = {}

    def quic_event_received(self, event: object) -> None:
        for part in self.http.handle_event(event):
            if isinstance(part, (HeadersReceived, DataReceived)) and part.stream_ended:
                self.waiting.pop(part.stream_id).set_result(None)

    async def ask(self, name: str, path: str, body: bytes) -> None:
        stream = self._quic.get_next_available_stream_id()
        method = b"POST" if body else b"GET"
        head = [
            (b":method", method), (b":scheme", b"https"),
            (b":authority", name.encode()), (b":path", path.encode()),
            (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64) labstream/2"),
        ]  # fmt: skip
        self.http.send_headers(stream, head, end_stream=not body)
        if body:
            self.http.send_data(stream, body, end_stream=True)
        self.waiting[stream] = asyncio.get_running_loop().create_future()
        done = self.waiting[stream]
        self.transmit()
        await done


async def _serve(certificate: str, key: str, *addresses: str) -> None:
    configuration = QuicConfiguration(alpn_protocols=H3_ALPN, is_client=False)
    configuration.load_cert_chain(certificate, key)
    for address in addresses:
        await serve(address, 443, configuration=configuration, create_protocol=_Server)
    await asyncio.Future()


async def _ask(address: str, name: str, parts: list[tuple[str, bytes]]) -> None:
    configuration = QuicConfiguration(
        alpn_protocols=H3_ALPN, is_client=True, server_name=name, verify_mode=0
    )
    async with connect(
        address, 443, configuration=configuration, create_protocol=_Client
    ) as client:
        for path, body in parts:
            await client.ask(name, path, body)


def main() -> None:
    """Dispatch."""
    command, *rest = sys.argv[1:]
    if command == "serve":
        asyncio.run(_serve(*rest))
        return
    address, name, *files = rest
    parts = [
        (f"/segment/{n}", b"")
        if command == "get"
        else ("/upload", Path(n).read_bytes())
        for n in files
    ]
    asyncio.run(asyncio.wait_for(_ask(address, name, parts), 25))


if __name__ == "__main__":
    main()
