"""Inside carriers: HTTP, WebSocket, mail and FTP; what is declared against bytes."""

from __future__ import annotations

import base64
import gzip
import os
import time
import zlib
from email.message import EmailMessage
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import SMTP
from pathlib import Path

import dpkt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exfilml.payload import _fields, _frames, _ftp, _http, _mail, _websocket
from exfilml.payload._content import MAX_PARTS, Carried, Joined, Part, at_most
from exfilml.payload._declared import contradicts
from exfilml.payload._ftp import Transfer, transfers

REAL = os.environ.get("EXFILML_REAL_DATA")
needs_real_data = pytest.mark.skipif(
    REAL is None, reason="EXFILML_REAL_DATA names no folder of real captures"
)

WIDTH = 64
CIPHER = np.random.default_rng(5).bytes(3000)
LATER = np.random.default_rng(6).bytes(4 * WIDTH)
JSON = b'{"user": "a", "text": "nothing of note"}'


def request(
    body: bytes = b"", *fields: str, line: str = "POST /up HTTP/1.1", length: int = -1
) -> bytes:
    """An HTTP message with a Content-Length, for a body longer than shown too."""
    size = len(body) if length < 0 else length
    header = [line, "Host: a.example", *fields, f"Content-Length: {size}"]
    return "\r\n".join((*header, "", "")).encode("latin-1") + body


def chunked(body: bytes, sizes: list[int], extension: bytes = b"") -> bytes:
    framed, at = b"", 0
    for size in sizes:
        piece = body[at : at + size]
        if piece:
            framed += b"%x%s\r\n%s\r\n" % (len(piece), extension, piece)
        at += size
    if body[at:]:
        framed += b"%X\r\n%s\r\n" % (len(body) - at, body[at:])
    return framed + b"0\r\n\r\n"


def frame(
    data: bytes, *, opcode: int = 2, key: bytes = b"", final: bool = True, rsv: int = 0
) -> bytes:
    """A WebSocket frame, masked if there is a key."""
    first = 0x80 * final | rsv | opcode
    mask = 0x80 if key else 0
    if len(data) < 126:
        header = bytes([first, mask | len(data)])
    elif len(data) < 65_536:
        header = bytes([first, mask | 126]) + len(data).to_bytes(2)
    else:
        header = bytes([first, mask | 127]) + len(data).to_bytes(8)
    return header + key + _frames.unmask(data, key)


def upgrade(*fields: str, status: str = "") -> bytes:
    line = f"HTTP/1.1 {status}" if status else "GET /ws HTTP/1.1"
    more = ("Upgrade: websocket", "Connection: Upgrade", *fields)
    return "\r\n".join((line, "Host: a.example", *more, "", "")).encode()


def smtp(message: bytes, before: bytes = b"", after: bytes = b"QUIT\r\n") -> bytes:
    """The client's direction of a session, dots doubled as smtplib does."""
    dotted = message.replace(b"\r\n.", b"\r\n..")
    if dotted.startswith(b"."):
        dotted = b"." + dotted
    dialogue = b"EHLO pc\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"
    return dialogue + before + b"DATA\r\n" + dotted + b"\r\n.\r\n" + after


def contents(carried: Carried | None) -> list[tuple[bytes, str | None]]:
    assert carried is not None
    return [(part.data, part.declared) for part in carried.parts]


# --- any bytes -------------------------------------------------------------------

OPENINGS = (
    b"", b"GET / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent-Type: multipart/x; boundary=b\r\nContent-Length: 99\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\n\r\n", b"--b\r\n", b"--b--\r\n",
    b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: deflate\r\n\r\n",
    b"\xc1\x05", b"\x82\x85abcd", b"\x01\x02ab\x80\x01c", b"\r\n", b".\r\n",
    b"EHLO a\r\n", b"DATA\r\n", b"BDAT 5 LAST\r\n", b"BDAT 9\r\n", b"STARTTLS\r\n",
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n", b"1;x\r\na\r\n", b"0\r\n\r\n",
    b"Content-Type: text/plain; name*0*=utf-8''%41; name*1=\"\\\"\r\n", b"PASV\r\n",
    b"227 (1,2,3,4,5,6)\r\n", b"229 x (|||7|)\r\n", b"STOR a.b\r\n", b"150-a\r\n150 b\r\n",
)  # fmt: skip
ANY = st.lists(
    st.one_of(st.sampled_from(OPENINGS), st.binary(max_size=40)), max_size=12
).map(b"".join)


@given(ANY, ANY, st.integers(-1, 80))
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_opened_or_refused(
    head: bytes, slices: bytes, width: int
) -> None:
    """Nothing raises; parts lie in the head, later bytes come from the slices."""
    for module in (_http, _websocket, _mail):
        found = module.unwrap(head, slices, width)
        if found is None:
            continue
        assert len(found.parts) <= MAX_PARTS
        assert len(found.later) <= len(slices)
        assert found.width in (0, width)
        assert found.later or all(part.data for part in found.parts)
        for part in found.parts:
            assert 0 <= part.start <= len(head)
            assert part.declared is None or part.declared == part.declared.lower()
    for transfer in transfers(head, slices):
        assert 0 < transfer.port < 65_536


@given(st.text(max_size=60), st.sampled_from(["opaque", "text", "encoded"]), ANY)
@settings(deadline=None)
def test_any_declaration_is_answered(declared: str, verdict: str, data: bytes) -> None:
    assert contradicts(declared, verdict, True, None, data) in (True, False)


MEGABYTE = 1 << 20
FORM = (
    b"POST / HTTP/1.1\r\nContent-Type: multipart/x; boundary=a%s\r\n"
    b"Content-Length: 9999999\r\n\r\n"
)
MAIL = b"EHLO a\r\nDATA\r\n"
SOCKET = OPENINGS[8]
NASTY = {
    "requests": (b"", b"GET / HTTP/1.1\r\n\r\n"),
    "header": (b"GET / HTTP/1.1\r\n", b"a: b\r\n"),
    "folded header": (b"GET / HTTP/1.1\r\na: b\r\n", b" c\r\n"),
    "words": (b"GET / HTTP/1.1\r\n\r\nX", b"GET "),
    "gaps": (b"", b"GET / HTTP/1.1\r\n\r\nxx"),
    "chunks": (OPENINGS[2], b"1\r\nx\r\n"),
    "empty parts": (FORM % b"", b"--a\r\n"),
    "no parts": (FORM % b"", b"\n--aX"),
    "spaces": (FORM % b"" + b"--a", b" "),
    "nested": (FORM % b"", b"--a\r\n" + OPENINGS[19] + b"--b\r\n"),
    "parameters": (FORM % (b';a="' * 2000), b"x"),
    "empty frames": (SOCKET, b"\x81\x00"),
    "deflated frames": (SOCKET, b"\xc1\x01a"),
    "masked frames": (SOCKET, b"\x82\x81abcdx"),
    "commands": (b"EHLO a\r\n", b"DATA\r\n"),
    "messages": (b"EHLO a\r\n", b"DATA\r\n.\r\n"),
    "dots": (MAIL, b"\n."),
    "mail header": (MAIL, b"a: b\r\n"),
    "ftp": (b"", b"PASV\r\nSTOR a\r\n"),
    "ftp replies": (b"", b"227 (1,2,3,4,5,6)\r\n150 x\r\n226 y\r\n"),
    "ftp lines": (b"220-", b"1,2,3,4,5,"),
}


@pytest.mark.parametrize("name", NASTY)
def test_a_megabyte_of_hostile_bytes_is_quick(name: str) -> None:
    """No pattern makes any door slow; what is kept of a stream is 4 kB."""
    opening, repeated = NASTY[name]
    data = opening + repeated * (MEGABYTE // len(repeated))

    def door(call, *arguments) -> float:
        best = 1.0
        for _ in range(3):
            start = time.process_time()
            call(*arguments)
            best = min(best, time.process_time() - start)
            if best < 0.05:
                break
        return best

    for module in (_http, _websocket, _mail):
        assert door(module.unwrap, data, data[: 32 * WIDTH], WIDTH) < 0.05
    assert door(transfers, data, data) < 0.05


# --- HTTP ------------------------------------------------------------------------


def test_http_bodies_come_with_their_type() -> None:
    """Every message of a kept connection is opened, requests without body are none."""
    get = b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n"
    first = request(JSON, "Content-Type: application/JSON; charset=utf-8")
    second = request(CIPHER[:500], line="PUT /x/Report%201.PDF?v=2 HTTP/1.1")
    stream = get + first + get + second + b"\r\n" + get
    found = _http.unwrap(stream, b"", WIDTH)
    assert contents(found) == [
        (JSON, "application/json"),
        (CIPHER[:500], "report 1.pdf"),
    ]
    assert [part.start for part in found.parts] == [
        stream.index(JSON),
        stream.index(CIPHER[:500]),
    ]
    assert (found.later, found.width) == (b"", 0)


def test_http_replies_are_opened() -> None:
    """No body behind 1xx, 204 and 304; a body without length goes on to the end."""
    stream = (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 900\r\n\r\n"
        + request(JSON, "Content-Type: text/json", line="HTTP/1.1 200 OK")
        # The reply to a HEAD announces a body and has none.
        + b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"
        + b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<html>"
    )
    found = _http.unwrap(stream, LATER, WIDTH)
    assert contents(found) == [(JSON, "text/json"), (b"<html>", "text/html")]
    assert (found.later, found.width) == (LATER, WIDTH)


@given(
    st.binary(max_size=400),
    st.lists(st.integers(1, 90), max_size=6),
    st.sampled_from([b"", b";x=y", b' ; a="b"']),
)
@settings(deadline=None)
def test_http_chunks_are_joined(body: bytes, sizes: list[int], more: bytes) -> None:
    """What is sent in chunks of any sizes comes out in one piece."""
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n"
    next_one = request(JSON)
    stream = head + chunked(body, sizes, more) + next_one
    found = _http.unwrap(stream, b"", 0)
    assert contents(found) == [(body, None)] * bool(body) + [(JSON, None)]
    for part in found.parts:
        assert stream.startswith(part.data[:1], part.start)


SENT = st.lists(
    st.tuples(st.sampled_from(["GET", "POST", "PUT"]), st.binary(max_size=200),
              st.integers(1, 90), st.booleans(), st.booleans()),
    min_size=1, max_size=4,
)  # fmt: skip


@given(SENT, st.data())
@settings(deadline=None)
def test_http_requests_of_h11(sent, draw) -> None:
    """Requests of another implementation, whole and cut at any place."""
    h11 = pytest.importorskip("h11")
    stream, bodies = b"", []
    for method, body, step, by_chunk, trailer in sent:
        client = h11.Connection(h11.CLIENT)
        shown = b"" if method == "GET" else body
        fields = [("Host", "a.example"), ("Content-Type", "text/csv")]
        if method != "GET":
            size = ("Content-Length", str(len(shown)))
            fields.append(("Transfer-Encoding", "chunked") if by_chunk else size)
        stream += client.send(h11.Request(method=method, target="/a", headers=fields))
        for at in range(0, len(shown), step):
            stream += client.send(h11.Data(data=shown[at : at + step]))
        last = [("X-Sum", "1")] if method != "GET" and by_chunk and trailer else []
        stream += client.send(h11.EndOfMessage(headers=last))
        bodies += [shown] * bool(shown)
    assert contents(_http.unwrap(stream, b"", 0)) == [
        (body, "text/csv") for body in bodies
    ]
    found = _http.unwrap(stream[: draw.draw(st.integers(0, len(stream)))], b"", 0)
    parts = [] if found is None else [part.data for part in found.parts]
    assert parts[:-1] == bodies[: len(parts)][:-1]
    assert not parts or bodies[len(parts) - 1].startswith(parts[-1])


def test_http_chunk_sizes_are_cut_off_later_slices() -> None:
    """A writer that flushes each chunk begins its packets with the size."""
    head = OPENINGS[2] + b"400\r\n" + CIPHER[:200]
    slices = b"".join(b"4f%x\r\n" % i + CIPHER[60 * i :][:59] for i in range(4))
    found = _http.unwrap(head, slices, WIDTH)
    assert contents(found) == [(CIPHER[:200], None)]
    assert found.later == b"".join(CIPHER[60 * i :][:59] for i in range(4))
    assert found.width == 0
    assert _http.unwrap(head, LATER, WIDTH).later == LATER


def test_http_trailers_are_no_content() -> None:
    stream = OPENINGS[2] + b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n" + request(JSON)
    assert contents(_http.unwrap(stream, b"", 0)) == [(b"abc", None), (JSON, None)]


@pytest.mark.parametrize("tail", [b"", b"X", b"X-Sum: 1", b"X-Sum: 1\r\n"])
def test_http_trailers_that_are_cut_are_no_content(tail: bytes) -> None:
    stream = OPENINGS[2] + b"3\r\nabc\r\n0\r\n" + tail
    assert contents(_http.unwrap(stream, b"", 0)) == [(b"abc", None)]
    hidden = stream + CIPHER
    assert _http.unwrap(hidden, b"", 0).parts[-1].data.endswith(CIPHER)


def test_http_content_that_goes_on_takes_the_slices() -> None:
    """Also where the head ends with the header."""
    stream = request(CIPHER[:90], "Content-Type: image/png", length=5000)
    assert _http.unwrap(stream, LATER, WIDTH) == Carried(
        (Part(CIPHER[:90], "image/png", len(stream) - 90),), LATER, WIDTH
    )
    stream = request(b"", "Content-Type: image/png", length=5000)
    assert contents(_http.unwrap(stream, LATER, WIDTH)) == [(b"", "image/png")]
    assert contents(_http.unwrap(stream, b"", WIDTH)) == []


def test_http_slices_of_unseen_messages_are_kept_but_for_headers() -> None:
    """Behind the last message anything may come; start lines are told apart."""
    get = b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n"
    line = (b"POST /a/very/long/path?" + b"q" * 99)[:WIDTH]
    reply = (b"HTTP/1.1 200 OK\r\n" + b"Server: x" * 9)[:WIDTH]
    found = _http.unwrap(get * 3, line + LATER + reply, WIDTH)
    assert found == Carried((), LATER, WIDTH)
    # Cookies of several kB go on in the next packet, and are no content.
    long = b"GET /a HTTP/1.1\r\nCookie: " + b"k=QUJD; " * 200 + b"\r\n\r\n"
    found = _http.unwrap(long, b"k=QUJD; " * 8 + LATER, WIDTH)
    assert found == Carried((), LATER, WIDTH)
    assert _http.unwrap(get, b"k=QUJD; " * 8, WIDTH).later == b"k=QUJD; " * 8


@pytest.mark.parametrize("opening", [
    b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
    b"HTTP/1.1 200 Connection established\r\n\r\n",
    b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tunnel/1\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tunnel/1\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
])  # fmt: skip
def test_http_tunnels_and_unannounced_content_are_a_part(opening: bytes) -> None:
    """What begins no message is content, whatever the header promised."""
    found = _http.unwrap(opening + CIPHER, LATER, WIDTH)
    assert found == Carried((Part(CIPHER, None, len(opening)),), LATER, WIDTH)


def test_http_refused_upgrade_goes_on_with_http() -> None:
    stream = upgrade() + request(JSON)
    assert _websocket.unwrap(stream, b"", 0) is None
    assert contents(_http.unwrap(stream, b"", 0)) == [(JSON, None)]


def test_http_survives_segments_sent_twice() -> None:
    """What exceeds a body belongs to it, and the next message is found again."""
    packed = gzip.compress(CIPHER)
    body = packed[:900]
    stream = request(body) + body[500:] + request(JSON)
    assert contents(_http.unwrap(stream, b"", 0)) == [
        (body + body[500:], None), (JSON, None),
    ]  # fmt: skip
    get = b"GET /a HTTP/1.1\r\nHost: a.example\r\nCookie: " + b"abcd" * 30 + b"\r\n\r\n"
    stream = get + get[-70:] + get
    assert contents(_http.unwrap(stream, b"", 0)) == []


@pytest.mark.parametrize("head", [
    b"", b"POST / HTTP/1.1\r\nHost: a", b"SSH-2.0-x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM",
    CIPHER, b"EHLO a\r\n\r\n",
])  # fmt: skip
def test_http_is_refused_where_no_header_ends(head: bytes) -> None:
    assert _http.unwrap(head, LATER, WIDTH) is None
    assert _websocket.unwrap(head, LATER, WIDTH) is None


@pytest.mark.parametrize(("fields", "declared"), [
    (["Content-Type: text/CSV; header=present"], "text/csv"),
    (["Content-Type: application/octet-stream"], "application/octet-stream"),
    (["Content-Type: application/octet-stream",
      'Content-Disposition: attachment; filename="C:\\\\dir\\\\Über.PDF"'], "Ã\x9cber.pdf"),
    (['Content-Disposition: attachment; filename="a.txt"; filename*=UTF-8\'\'%C3%9C.zip'],
     "ü.zip"),
    (["Content-Disposition: filename=/etc/passwd"], "passwd"),
    (["Content-Type: image/png", "Content-Disposition: attachment; filename=a.zip"],
     "image/png"),
    (["Content-Type: text/html", "Content-Encoding: gzip"], "application/gzip"),
    (["Content-Type: text/html", "Content-Encoding: br"], None),
    (["Content-Type: text/html", "Content-Encoding: identity"], "text/html"),
    (["Content-Type: video/mp4", "Content-Range: bytes 5-9/10"], None),
    (["Content-Type: video/mp4", "Content-Range: bytes 0-9/10"], "video/mp4"),
    (["Content-Type: nonsense"], None),
    (["Content-Type: text/plain", "Content-Type: image/png"], "text/plain"),
])  # fmt: skip
def test_http_declarations(fields: list[str], declared: str | None) -> None:
    """A type that says something, else a file name; of coded bytes the coding."""
    if declared == "Ã\x9cber.pdf":
        # Header bytes are UTF-8 where they are no longer Latin-1.
        declared = "über.pdf"
        stream = request(JSON, fields[0]).replace(
            b"Content-Length", fields[1].encode() + b"\r\nContent-Length"
        )
    else:
        stream = request(JSON, *fields)
    assert contents(_http.unwrap(stream, b"", 0)) == [(JSON, declared)]


@pytest.mark.parametrize(("target", "declared"), [
    ("/dav/secret.docx", "secret.docx"), ("http://h.example/a/b.txt#x", None),
    ("http://h.example/a/b.txt", "b.txt"), ("http://h.example", None),
    ("/dav/item", None), ("/a.b/", None), ("/..%2f..%2fx.sh", "x.sh"), ("*", None),
])  # fmt: skip
def test_http_put_paths_name_files(target: str, declared: str | None) -> None:
    stream = request(JSON, line=f"PUT {target} HTTP/1.1")
    assert contents(_http.unwrap(stream, b"", 0)) == [(JSON, declared)]


TOKEN = st.text(
    "abcdefghijklmnopqrstuvwxyz0123456789'()+_,-./:=?", min_size=4, max_size=40
)
PIECES = st.lists(
    st.tuples(st.binary(min_size=1, max_size=120), st.sampled_from(["text/csv", "a/b", ""])),
    min_size=1, max_size=6,
)  # fmt: skip


@given(PIECES, TOKEN, st.booleans(), st.data())
@settings(deadline=None)
def test_http_multipart_comes_apart(pieces, token: str, quoted: bool, draw) -> None:
    """Parts of any bytes come out as they went in, also when the head cuts them."""
    line = b"\r\n--" + token.encode()
    pieces = [(data, kind) for data, kind in pieces if line not in b"\r\n" + data]
    body = b""
    for data, kind in pieces:
        field = f"Content-Type: {kind}\r\n".encode() if kind else b""
        body += line + b"\r\n" + field + b"\r\n" + data
    body = body[2:] + line + b"--\r\n"
    boundary = f'"{token}"' if quoted or not token.isalnum() else token
    kind = f"Content-Type: multipart/form-data; boundary={boundary}"
    stream = request(body, kind) if pieces else request(JSON, kind)
    found = _http.unwrap(stream, b"", 0)
    expected = [(data, kind or None) for data, kind in pieces]
    assert contents(found) == (expected or [(JSON, "multipart/form-data")])
    for part in found.parts:
        assert stream.startswith(part.data, part.start)
    cut = draw.draw(st.integers(stream.index(b"\r\n\r\n") + 4, len(stream)))
    shown = _http.unwrap(stream[:cut], LATER, WIDTH)
    for part, whole in zip(shown.parts[:-1], found.parts, strict=False):
        assert part == whole


def form(*parts: tuple[str, bytes]) -> bytes:
    """A form as browsers send it; the file last."""
    lines = []
    for fields, data in parts:
        disposition = f"--cut\r\nContent-Disposition: form-data; {fields}\r\n\r\n"
        lines.append(disposition.encode() + data + b"\r\n")
    return b"".join(lines) + b"--cut--\r\n"


def test_http_forms_hold_fields_and_files() -> None:
    body = form(
        ('name="title"', b"x"),
        (
            'name="f"; filename="Q3.xlsx"\r\nContent-Type: application/octet-stream',
            CIPHER,
        ),
    )
    kind = "Content-Type: multipart/form-data; boundary=cut"
    assert contents(_http.unwrap(request(body, kind), b"", 0)) == [
        (b"x", None),
        (CIPHER, "q3.xlsx"),
    ]
    # Cut inside the file: what comes later is the file, but for a boundary line.
    stream = request(body[:900], kind, length=len(body))
    last = (LATER[:50] + b"\r\n--cut--\r\n")[:WIDTH].ljust(WIDTH, b"\r")
    found = _http.unwrap(stream, LATER + last, WIDTH)
    assert found.parts[-1].declared == "q3.xlsx"
    assert (found.later, found.width) == (LATER, WIDTH)


def test_http_hidden_corners_of_a_multipart_are_parts() -> None:
    """Preamble and epilogue are skipped by receivers, and not here."""
    body = CIPHER[:200] + b"\r\n" + form(('name="a"', b"x")) + CIPHER[200:400]
    stream = request(body, "Content-Type: multipart/mixed; boundary=cut")
    assert [data for data, _ in contents(_http.unwrap(stream, b"", 0))] == [
        CIPHER[:200],
        b"x",
        CIPHER[200:400],
    ]


def test_the_largest_parts_and_the_last_are_handed_on() -> None:
    """Many small fields do not hide a file."""
    fields = [(f'name="n{i}"', b"x") for i in range(60)]
    body = form(*fields[:40], ('name="f"', CIPHER), *fields[40:])
    stream = request(body, "Content-Type: multipart/form-data; boundary=cut")
    found = _http.unwrap(stream, b"", 0)
    assert len(found.parts) == MAX_PARTS
    assert any(part.data == CIPHER for part in found.parts)
    assert found.parts[-1].start == stream.rindex(b"x\r\n--cut--")
    parts = tuple(Part(b"x", None, i) for i in range(MAX_PARTS))
    assert at_most(parts) == parts


def test_joined_bytes_keep_their_places() -> None:
    joined = Joined.of(b"0123456789", [(1, 3), (3, 3), (6, 9)])
    assert joined.data == b"12678"
    assert [joined.place(i) for i in range(6)] == [1, 2, 6, 7, 8, 9]


# --- WebSocket -------------------------------------------------------------------


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_masks_undo_themselves(data: bytes, key: bytes) -> None:
    """RFC 6455, section 5.3: octet i is masked with octet i modulo 4 of the key."""
    masked = _frames.unmask(data, key)
    assert masked == bytes(byte ^ key[i % 4] for i, byte in enumerate(data))
    assert _frames.unmask(masked, key) == data


@given(
    st.lists(
        st.tuples(st.sampled_from([1, 2]), st.binary(min_size=1, max_size=300),
                  st.integers(1, 4), st.binary(min_size=4, max_size=4)),
        min_size=1, max_size=6),
    st.booleans(),
)  # fmt: skip
@settings(deadline=None)
def test_websocket_messages_are_joined_by_kind(sent, masked: bool) -> None:
    """Fragments with a ping between them, masked or not, come out in one piece."""
    stream = upgrade() if masked else upgrade(status="101 Switching Protocols")
    expected: dict[str, bytes] = {}
    for opcode, data, fragments, key in sent:
        step = -(-len(data) // fragments)
        pieces = [data[i : i + step] for i in range(0, len(data), step)]
        for i, piece in enumerate(pieces):
            stream += frame(
                piece, opcode=0 if i else opcode, key=key if masked else b"",
                final=i + 1 == len(pieces),
            )  # fmt: skip
            stream += frame(b"ping", opcode=9, key=key if masked else b"")
        kind = "websocket/text" if opcode == 1 else "websocket/binary"
        expected[kind] = expected.pop(kind, b"") + data
    found = _websocket.unwrap(stream, b"", WIDTH)
    assert contents(found) == [(data, kind) for kind, data in expected.items()]


def test_websocket_frames_of_wsproto() -> None:
    """Frames of another implementation, both ends, with and without deflate."""
    wsproto = pytest.importorskip("wsproto")
    from wsproto.events import AcceptConnection, BytesMessage, Request, TextMessage
    from wsproto.extensions import PerMessageDeflate

    for deflate in (False, True):
        client = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        server = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        offered = [PerMessageDeflate()] if deflate else []
        up = client.send(Request("a.example", "/ws", extensions=offered))
        server.receive_data(up)
        list(server.events())
        accepted = [PerMessageDeflate()] if deflate else []
        down = server.send(AcceptConnection(extensions=accepted))
        client.receive_data(down)
        list(client.events())
        text = "nothing of note, nothing of note, "
        for _ in range(5):
            up += client.send(TextMessage(data=text))
            up += client.send(BytesMessage(data=CIPHER[:400]))
            down += server.send(TextMessage(data=text, message_finished=False))
            down += server.send(TextMessage(data=text))
        assert contents(_websocket.unwrap(up, b"", WIDTH)) == [
            (5 * text.encode(), "websocket/text"),
            (5 * CIPHER[:400], "websocket/binary"),
        ]
        assert contents(_websocket.unwrap(down, b"", WIDTH)) == [
            (10 * text.encode(), "websocket/text")
        ]
        if deflate:
            # The head cuts a message: its beginning is inflated.
            cut = _websocket.unwrap(down[:-3], LATER, WIDTH)
            assert cut.parts[0].data.startswith(8 * text.encode())
            assert cut.later == b""


def deflated(data: bytes, level: int = 9) -> bytes:
    stream = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


DEFLATES = "Sec-WebSocket-Extensions: permessage-deflate"


def test_websocket_messages_that_do_not_inflate_are_a_part() -> None:
    """A compression flag does not make ciphertext compressed."""
    key = b"k\x01\x02y"
    stream = upgrade(DEFLATES)
    stream += frame(CIPHER, rsv=0x40, key=key) + frame(
        deflated(JSON), rsv=0x40, key=key
    )
    assert contents(_websocket.unwrap(stream, b"", 0)) == [
        (CIPHER, "websocket/deflate"),
        (JSON, "websocket/binary"),
    ]
    # Without the extension the flag is an error, and no frame begins here.
    bare = upgrade() + frame(CIPHER, rsv=0x40, key=key)
    assert _websocket.unwrap(bare, b"", 0) is None
    assert contents(_http.unwrap(bare, b"", 0)) == [
        (frame(CIPHER, rsv=0x40, key=key), None)
    ]


@pytest.mark.parametrize("header", [
    "b2 05", "83 05", "8b 05", "09 00", "89 7e 0080", "c9 00", "82 7e 0005",
    "82 7f 0000000000000005", "82 7f 8000000000000000", "82 7f 00000000",
])  # fmt: skip
def test_websocket_impossible_frames_are_none(header: str) -> None:
    """Reserved bits and opcodes, long or cut control frames, lengths too long coded."""
    data = bytes.fromhex(header)
    assert _frames.read_frame(data, 0, deflates=True) is None


def test_websocket_inflates_no_bomb() -> None:
    stream = upgrade(DEFLATES) + frame(deflated(bytes(20_000_000)), rsv=0x40)
    found = _websocket.unwrap(stream + frame(deflated(JSON), rsv=0x40), b"", 0)
    assert sum(len(part.data) for part in found.parts) <= 65_536


def test_websocket_bytes_that_are_no_frame_are_a_part() -> None:
    """Neither raw bytes at once, nor behind an honest frame, go unseen."""
    opening = upgrade()
    assert _websocket.unwrap(opening + b"\xff" + CIPHER, b"", 0) is None
    stream = opening + frame(JSON, opcode=1, key=b"abcd") + b"\xff" + CIPHER
    assert contents(_websocket.unwrap(stream, b"", 0)) == [
        (JSON, "websocket/text"),
        (b"\xff" + CIPHER, None),
    ]


def test_websocket_later_masked_slices_need_a_frame_start() -> None:
    """The key stands in front of a frame; in the middle of one nothing is said."""
    head = upgrade() + frame(bytes(3000), key=b"abcd")[:2000]
    starts = b"".join(
        frame(CIPHER[60 * i :][:900], key=CIPHER[i : i + 4])[:WIDTH] for i in range(3)
    )
    small = (frame(JSON, key=b"1234") + frame(JSON, key=b"5678"))[:WIDTH]
    found = _websocket.unwrap(head, bytes([0xFF]) * WIDTH + starts + small, WIDTH)
    assert found.later == b"".join(
        [CIPHER[60 * i :][:56] for i in range(3)] + [JSON, JSON[: WIDTH - 52]]
    )
    assert found.width == 0
    assert contents(found) == [
        (frame(bytes(3000))[4:][: len(head) - len(upgrade()) - 8], "websocket/binary")
    ]


def test_websocket_later_open_slices_are_content() -> None:
    head = upgrade(status="101 Switching Protocols") + frame(bytes(3000))[:2000]
    middle = b"\xfe" + CIPHER[: WIDTH - 1]
    start = frame(CIPHER[:900])[:WIDTH]
    found = _websocket.unwrap(head, middle + start, WIDTH)
    assert found.later == middle + CIPHER[: WIDTH - 4]


def test_websocket_later_messages_of_another_kind_become_the_last_part() -> None:
    """Text first, ciphertext later: the slices are not taken for text."""
    head = upgrade() + frame(JSON, opcode=1, key=b"abcd")
    slices = b"".join(
        frame(CIPHER[:900], key=bytes([i, 1, 2, 3]))[:WIDTH] for i in range(4)
    )
    found = _websocket.unwrap(head, slices, WIDTH)
    assert contents(found) == [(JSON, "websocket/text"), (b"", "websocket/binary")]
    assert found.later == CIPHER[:56] * 4
    head += frame(b"x", opcode=2, key=b"abcd") + frame(JSON, opcode=1, key=b"abcd")
    assert contents(_websocket.unwrap(head, slices, WIDTH)) == [
        (2 * JSON, "websocket/text"),
        (b"x", "websocket/binary"),
    ]


# --- mail ------------------------------------------------------------------------


def mail(*attachments: tuple[bytes, str, str]) -> EmailMessage:
    """A message as Python's library writes it: text, and files in base64."""
    message = EmailMessage(policy=SMTP)
    message["Subject"] = "files"
    message["From"], message["To"] = "a@b.example", "c@d.example"
    message.set_content("please find attached\n.hidden dot\n")
    for data, kind, name in attachments:
        main, _, sub = kind.partition("/")
        message.add_attachment(data, maintype=main, subtype=sub, filename=name)
    return message


def test_mail_parts_come_with_their_names() -> None:
    """Headers of parts are gone, base64 stays, dots are undone."""
    message = mail(
        (CIPHER, "application/octet-stream", "Scan.BIN"),
        (CIPHER[:300], "application/pdf", "größe.pdf"),
        (CIPHER[:90], "application/octet-stream", "x" * 90 + " größe.docx"),
    )
    stream = smtp(message.as_bytes())
    found = _mail.unwrap(stream, b"", WIDTH)
    text, *files = contents(found)
    assert text == (b"please find attached\r\n.hidden dot\r\n", "text/plain")
    assert [(base64.b64decode(data), name) for data, name in files] == [
        (CIPHER, "scan.bin"),
        (CIPHER[:300], "application/pdf"),
        (CIPHER[:90], "x" * 90 + " größe.docx"),
    ]
    for part in found.parts[1:]:
        assert stream.startswith(part.data, part.start)
    assert found.later == b""


def test_mail_multipart_in_multipart() -> None:
    """Text in two versions, then a file: one level of nesting is opened."""
    inner = MIMEMultipart("alternative", boundary="inner")
    inner.attach(MIMEText("hello"))
    inner.attach(MIMEText("<b>hello</b>", "html"))
    outer = MIMEMultipart("mixed", boundary="outer")
    outer.attach(inner)
    file = MIMEApplication(CIPHER)
    file.add_header(
        "Content-Disposition", "attachment", filename="=?utf-8?q?=C3=BC=2Ezip?="
    )
    outer.attach(file)
    stream = smtp(outer.as_bytes(policy=SMTP))
    kinds = [declared for _, declared in contents(_mail.unwrap(stream, b"", 0))]
    assert kinds == ["text/plain", "text/html", "ü.zip"]


@given(st.lists(st.text(st.sampled_from(".ab"), max_size=6), max_size=8))
@settings(deadline=None)
def test_mail_dots_come_back(lines: list[str]) -> None:
    """Transparency, RFC 5321 section 4.5.2: any text arrives as it was sent."""
    body = "\r\n".join((*lines, "end")).encode()
    stream = smtp(b"Subject: x\r\n\r\n" + body)
    assert contents(_mail.unwrap(stream, b"", 0)) == [(body + b"\r\n", None)]


def test_mail_every_message_of_a_session() -> None:
    """Two messages, a refused one between them, and no word of the dialogue."""
    one = smtp(b"Subject: x\r\n\r\n" + CIPHER[:99].hex().encode(), after=b"RSET\r\n")
    refused = b"MAIL FROM:<a@b.example>\r\nDATA\r\nRSET\r\n"
    login = b"AUTH LOGIN\r\ndXNlcg==\r\ncGFzc3dvcmQ=\r\n"
    two = smtp(b"Content-Type: text/csv\r\n\r\n1,2")[len(b"EHLO pc\r\n") :]
    stream = b"EHLO pc\r\n" + login + one[len(b"EHLO pc\r\n") :] + refused + two
    assert contents(_mail.unwrap(stream, b"", 0)) == [
        (CIPHER[:99].hex().encode() + b"\r\n", None),
        (b"1,2\r\n", "text/csv"),
    ]


def test_mail_chunks_of_bdat_are_joined() -> None:
    """RFC 3030: raw bytes, no doubled dots, one message over several chunks."""
    message = b"Content-Type: application/zip\r\n\r\n" + CIPHER[:300] + b"\r\n..x"
    stream = b"EHLO a\r\nMAIL FROM:<a@b.example>\r\n" + b"".join(
        b"BDAT %d%s\r\n%s" % (len(piece), last, piece)
        for piece, last in ((message[:100], b""), (message[100:], b" LAST"))
    )
    found = _mail.unwrap(stream + b"QUIT\r\n", b"", 0)
    assert contents(found) == [(message[33:], "application/zip")]
    assert found.parts[0].start == stream.index(CIPHER[:20])
    cut = _mail.unwrap(stream[:-50], LATER, WIDTH)
    assert (cut.parts[0].data, cut.later) == (message[33:-50], LATER)


def test_mail_that_goes_on_takes_the_slices() -> None:
    stream = smtp(mail((CIPHER, "application/pdf", "a.pdf")).as_bytes())
    delimiter = stream[stream.index(b"\r\n\r\n--") + 4 :].split(b"\r\n")[0]
    slices = LATER + (b"abc=\r\n" + delimiter + b"--\r\n").ljust(WIDTH, b"\n")
    found = _mail.unwrap(stream[:1000], slices, WIDTH)
    assert found.parts[-1].declared == "application/pdf"
    assert (found.later, found.width) == (LATER, WIDTH)
    # The header does not end, or no message was seen at all.
    long = smtp(b"Received: " + b"x" * 4000 + b"\r\n\r\nabc")[:4000]
    assert contents(_mail.unwrap(long, LATER, WIDTH)) == [(b"", None)]
    dialogue = b"EHLO a\r\n" + b"RCPT TO:<x@y.example>\r\n" * 50
    command = b"RCPT TO:<x@y.example>".ljust(WIDTH)
    assert _mail.unwrap(dialogue, command + LATER, WIDTH) == Carried((), LATER, WIDTH)


def test_mail_under_tls_shows_nothing() -> None:
    hello = b"\x16\x03\x01\x02\x00\x01" + CIPHER
    stream = b"EHLO a\r\nSTARTTLS\r\n" + hello
    assert _mail.unwrap(stream, LATER, WIDTH) == Carried((), b"", 0)
    # Refused, and gone on in the clear.
    clear = b"EHLO a\r\nSTARTTLS\r\n" + smtp(b"Subject: x\r\n\r\nabc")
    assert contents(_mail.unwrap(clear, b"", 0)) == [(b"abc\r\n", None)]


def test_mail_of_the_server_is_none() -> None:
    reply = b"220 mx.example ESMTP\r\n250 ok\r\n354 go on\r\n"
    assert _mail.unwrap(reply, LATER, WIDTH) is None
    assert _mail.unwrap(b"", b"", 0) is None


def test_mail_without_header_is_content() -> None:
    stream = b"HELO a\r\nDATA\r\n" + base64.encodebytes(CIPHER)
    assert contents(_mail.unwrap(stream, b"", 0)) == [
        (base64.encodebytes(CIPHER), None)
    ]


def test_parameters_in_their_four_forms() -> None:
    """RFC 2045, 2231 and 8187; the star is believed first."""
    value = "a/b; name=plain; Name=second"
    assert _fields.parameter(value, "name") == "plain"
    assert _fields.parameter('a/b; name="q\\"uo; te"; x=y', "name") == 'q"uo; te'
    assert _fields.parameter("a/b; name=x; name*=utf-8'en'%e2%82%ac", "name") == "€"
    pieces = "a/b; name*1=\"b \"; name*0*=utf-8''%41; name*2*=%43"
    assert _fields.parameter(pieces, "name") == "Ab C"
    assert _fields.parameter("a/b", "name") is None
    assert _fields.fields(b"A: b\r\n c\r\nBad\r\n d\r\na: z\r\n e\r\n") == {"a": "b c"}


@pytest.mark.parametrize(("text", "name"), [
    ("=?utf-8?b?w5wucGRm?=", "ü.pdf"), ("=?utf-8?q?a=2Ezip?=", "a.zip"),
    ("=?x?b?A?=.txt", "=?x?b?a?=.txt"), ("a\x1b[31m.txt\x00", "a[31m.txt"), ("../", None),
    ("x" * 3000 + ".csv", "x" * 251 + ".csv"), ("a\\b/C.Doc ", "c.doc"),
])  # fmt: skip
def test_file_names_of_hostile_senders(text: str, name: str | None) -> None:
    """Encoded words are undone, paths and control characters are gone."""
    assert _fields.file_name(text) == name


# --- declarations ----------------------------------------------------------------

SEALED = b"Salted__" + CIPHER
B64_CIPHER = base64.encodebytes(CIPHER)
B64_PDF = base64.encodebytes(b"%PDF-1.7\n" + CIPHER)
XORED = bytes(b ^ 0x80 for b in b"name,amount\r\n" * 30)


@pytest.mark.parametrize(("declared", "verdict", "magic", "data", "expected"), [
    # Text that is opaque, by type and by name.
    ("text/csv", "opaque", None, CIPHER, True),
    ("text/csv", "opaque", None, b"", True),
    ("application/json", "opaque", None, CIPHER, True),
    ("application/vnd.api+json", "opaque", None, CIPHER, True),
    ("image/svg+xml", "opaque", None, CIPHER, True),
    ("multipart/form-data", "opaque", None, CIPHER, True),
    ("websocket/text", "opaque", None, CIPHER, True),
    ("export.csv", "opaque", None, CIPHER, True),
    ("notes.txt", "opaque", "openssl-salted", SEALED, True),
    ("server.log", "opaque", "zip-encrypted", CIPHER, True),
    # Compressed text, armoured text, encoded text are text.
    ("text/html", "compressed", None, CIPHER, False),
    ("text/plain", "opaque", "age", b"-----BEGIN AGE ENCRYPTED FILE-----" * 3, False),
    ("text/plain", "opaque", "age", b"", False),
    ("text/plain", "encoded", None, B64_CIPHER, False),
    ("application/json", "encoded", None, b'{"d":"' + B64_CIPHER + b'"}', False),
    ("text/csv", "encoded", None, XORED, True),
    ("text/csv", "encoded", None, b"", False),
    ("text/plain", "text", None, b"x" * 99, False),
    # Formats with a signature.
    ("image/jpeg", "opaque", None, CIPHER, True),
    ("photo.JPG", "opaque", None, CIPHER, True),
    ("application/pdf", "opaque", None, CIPHER, True),
    ("application/gzip", "opaque", None, CIPHER, True),
    ("a.docx", "opaque", None, CIPHER, True),
    ("image/png", "opaque", "openssl-salted", SEALED, True),
    ("image/png", "compressed", "jpeg", CIPHER, False),
    ("application/zip", "opaque", "zip-encrypted", CIPHER, False),
    ("a.docx", "opaque", "ole", CIPHER, False),
    ("application/pdf", "opaque", "pdf", CIPHER, False),
    ("application/pdf", "opaque", None, b"\r\n\r\n%PDF-1.4" + CIPHER, False),
    ("video/mp4", "structured", None, CIPHER, False),
    # The same behind base64.
    ("application/pdf", "encoded", None, B64_CIPHER, True),
    ("application/pdf", "encoded", None, B64_PDF, False),
    ("image/png", "encoded", None, b"data:image/png;base64," + B64_CIPHER, False),
    ("image/png", "encoded", None, b"", False),
    ("image/png", "encoded", None, XORED, True),
    # Nothing promised, or too little seen.
    ("application/octet-stream", "opaque", None, CIPHER, False),
    ("application/x-www-form-urlencoded", "opaque", None, CIPHER, False),
    ("audio/mpeg", "opaque", None, CIPHER, False),
    ("backup.csv.gpg", "opaque", None, CIPHER, False),
    (".csv", "opaque", None, CIPHER, False),
    ("text/csv", "opaque", None, CIPHER[:63], False),
    (None, "opaque", None, CIPHER, False),
    ("", "opaque", None, CIPHER, False),
])  # fmt: skip
def test_contradictions(
    declared: str | None, verdict: str, magic: str | None, data: bytes, expected: bool
) -> None:
    """Only what leaves no room contradicts."""
    concealed = verdict in ("opaque", "encoded")
    assert contradicts(declared, verdict, concealed, magic, data) is expected


def test_encoded_plaintext_contradicts_nothing() -> None:
    assert not contradicts("text/csv", "encoded", False, None, XORED)


# --- FTP -------------------------------------------------------------------------

GREETING = b"220-Welcome\r\n 220 not yet\r\n220 ready\r\n"
LOGIN = b"USER a\r\nPASS b\r\n"
LOGGED_IN = b"331 password\r\n230 in\r\n"


def test_ftp_transfers_in_their_order() -> None:
    """Passive and active, both families, uploads, downloads and listings."""
    client = LOGIN + (
        b"PASV\r\nSTOR /in/Q3 report.PDF\r\n"
        b"EPSV\r\nRETR a\\b.txt\r\n"
        b"PORT 10,0,0,5,4,210\r\nLIST -la\r\n"
        b"EPRT |2|2001:db8::5|6000|\r\nappe log.txt\r\n"
        b"PASV\r\nSTOU\r\nQUIT\r\n"
    )
    server = GREETING + LOGGED_IN + (
        b"227 Entering Passive Mode (192,0,2,7,200,10).\r\n150 go\r\n226 done\r\n"
        b"229 Entering Extended Passive Mode (|||50001|)\r\n125 go\r\n226-a\r\n226 done\r\n"
        b"200 ok\r\n150 go\r\n226 done\r\n"
        b"200 ok\r\n150 go\r\n250 done\r\n"
        b"227 =192,0,2,7,1,0\r\n150 FILE: up.0001\r\n226 done\r\n221 bye\r\n"
    )  # fmt: skip
    assert transfers(client, server) == (
        Transfer("192.0.2.7", 51_210, True, "Q3 report.PDF", True),
        Transfer(None, 50_001, False, "b.txt", True),
        Transfer("10.0.0.5", 1234, False, "", False),
        Transfer("2001:db8::5", 6000, True, "log.txt", False),
        Transfer("192.0.2.7", 256, True, "up.0001", True),
    )


@pytest.mark.parametrize(("replies", "count"), [
    (b"550 no\r\n", 0), (b"425 no connection\r\n", 0), (b"150 go\r\n425 no\r\n", 0),
    (b"150 go\r\n426 broken off\r\n", 1), (b"150 go\r\n", 1), (b"", 1), (b"15", 1),
    (b"226 done\r\n", 1),
])  # fmt: skip
def test_ftp_refused_transfers_are_none(replies: bytes, count: int) -> None:
    server = GREETING + LOGGED_IN + b"227 (192,0,2,7,4,1)\r\n" + replies
    assert len(transfers(LOGIN + b"PASV\r\nSTOR a\r\n", server)) == count


def test_ftp_refused_endpoints_are_none() -> None:
    """A listener that was agreed upon stands when the command is refused."""
    client = b"USER a\r\nPORT 10,0,0,5,1,1\r\nSTOR a\r\nPASV\r\nSTOR b\r\nSTOR c\r\n"
    server = (
        b"220 x\r\n230 in\r\n500 no PORT\r\n425 none\r\n"
        b"227 (192,0,2,7,4,1)\r\n550 no b\r\n150 c\r\n226 done\r\n"
    )
    assert transfers(client, server) == (Transfer("192.0.2.7", 1025, True, "c", True),)


def test_ftp_pipelined_and_one_sided() -> None:
    """Commands ahead of replies; and no replies at all."""
    client = b"USER a\r\nPASS b\r\nTYPE I\r\nPORT 10,0,0,5,1,1\r\nSTOR a.bin\r\n"
    expected = (Transfer("10.0.0.5", 257, True, "a.bin", False),)
    assert transfers(client, b"") == expected
    server = GREETING + LOGGED_IN + b"200 I\r\n200 PORT\r\n150 go\r\n226 done\r\n"
    assert transfers(client, server) == expected
    assert transfers(b"", server) == ()
    assert transfers(b"PASV\r\nSTOR a\r\n", b"") == ()


def test_ftp_finds_its_step_again() -> None:
    """A reply or a command that was lost, and segments that came twice."""
    pair = b"PASV\r\nSTOR %d\r\n"
    client = LOGIN + pair % 1 + b"TYPE I\r\nNOOP\r\n" + pair % 2
    said = b"227 (192,0,2,7,4,%d)\r\n150 go\r\n226 done\r\n"
    middle = b"200 I\r\n200 noop\r\n"
    both = [(1025, "1"), (1026, "2")]
    for commands, replies in (
        (client, LOGGED_IN + said % 1 + middle + said % 2),
        (client, LOGGED_IN + said % 1 + middle[:7] + said % 2),
        (client, LOGGED_IN + said % 1 + said % 2),
        (client.replace(b"NOOP\r\n", b""), LOGGED_IN + said % 1 + middle + said % 2),
        (client.replace(b"PASV", b"PASV\r\nPASV", 1),
         LOGGED_IN + said % 1 + middle + said % 2),
        (client, LOGGED_IN + said.replace(b"227", b"227 (192,0,2,7,4,1)\r\n227", 1) % 1
         + middle + said % 2),
    ):  # fmt: skip
        found = transfers(commands, GREETING + replies)
        assert [(one.port, one.name) for one in found] == both


def test_ftp_under_tls_shows_nothing() -> None:
    client = b"AUTH TLS\r\n" + CIPHER + b"\nPORT 10,0,0,5,1,1\nSTOR a\n"
    assert transfers(client, b"220 x\r\n234 go\r\n" + CIPHER) == ()
    refused = b"AUTH TLS\r\nPORT 10,0,0,5,1,1\r\nSTOR a\r\n"
    assert len(transfers(refused, b"220 x\r\n502 no\r\n200 ok\r\n150 go\r\n")) == 1


@pytest.mark.parametrize("endpoint", [
    b"PORT 10,0,0,256,1,1", b"PORT 10,0,0,5,0,0", b"PORT 1,2,3", b"PORT",
    b"EPRT |1|10.0.0|99|", b"EPRT |1|10.0.0.5|99999|", b"EPRT |1|10.0.0.5|0|", b"EPRT",
    b"EPRT ||||", b"EPRT |1|10.0.0.5|9999999999|",
])  # fmt: skip
def test_ftp_impossible_endpoints_are_none(endpoint: bytes) -> None:
    assert transfers(endpoint + b"\r\nSTOR a\r\n", b"") == ()


def test_ftp_lines_that_were_cut_are_not_read() -> None:
    assert transfers(b"PORT 10,0,0,5,1,1\r\nSTOR secr", b"") == ()
    assert _ftp.transfers(b"EPSV\r\nSTOR a\r\n", b"220 x\r\n229 x (|||500") == ()


# --- real captures ---------------------------------------------------------------


def real_streams(path: Path) -> dict[tuple, tuple[bytes, bytes]]:
    """Head and slices of each direction of each TCP conversation, in arrival order."""
    streams: dict[tuple, tuple[bytearray, bytearray]] = {}
    with path.open("rb") as file:
        capture = dpkt.pcap.UniversalReader(file)
        link = dpkt.sll.SLL if capture.datalink() == 113 else dpkt.ethernet.Ethernet
        for _, packet in capture:
            segment = link(packet).data
            tcp = getattr(segment, "data", None)
            if not isinstance(tcp, dpkt.tcp.TCP) or not tcp.data:
                continue
            key = (segment.src, tcp.sport, segment.dst, tcp.dport)
            head, slices = streams.setdefault(key, (bytearray(), bytearray()))
            if len(head) < 4096:
                head += tcp.data[: 4096 - len(head)]
            elif len(tcp.data) >= WIDTH and len(slices) < 32 * WIDTH:
                slices += tcp.data[:WIDTH]
    return {key: (bytes(a), bytes(b)) for key, (a, b) in streams.items()}


def real(*parts: str) -> dict[tuple, tuple[bytes, bytes]]:
    assert REAL is not None
    return real_streams(Path(REAL, "pcap", *parts))


AGENT = ("attack", "corelight-agenttesla")


@needs_real_data
@pytest.mark.parametrize("name", [
    "a30789ce-1e1c-4f96-a097-78c34b9fb612.pcap",
    "db9f075c-7879-4957-923a-f79fac957a2d.pcap",
])  # fmt: skip
def test_real_stolen_data_in_mail(name: str) -> None:
    """AgentTesla mails what it stole as a web page."""
    found = [
        _mail.unwrap(head, slices, WIDTH)
        for (_, _, _, port), (head, slices) in real(*AGENT, name).items()
        if port == 587
    ]
    (page,) = [part for carried in found if carried for part in carried.parts]
    assert page.declared == "text/html"
    assert page.data.startswith(b"Time: ")


@needs_real_data
def test_real_stolen_data_over_ftp_and_http() -> None:
    """AgentTesla's upload is named on the control connection; a panel's is a form."""
    streams = real(*AGENT, "f9421792-7d2c-47d3-90e0-07eb54ae12fa.pcap")
    (upload,) = [
        transfer
        for (a, b, c, d), (head, _) in streams.items()
        if d == 21
        for transfer in transfers(head, streams[c, d, a, b][0])
    ]
    assert (upload.port, upload.upload, upload.passive) == (44_523, True, True)
    assert upload.name.startswith("PW_")
    assert upload.name.endswith(".html")
    assert any(key[3] == upload.port for key in streams)
    streams = real(*AGENT, "0e328ab7-12b2-4843-8717-a5b3ebef33a8.pcap")
    ((head, _),) = [pair for pair in streams.values() if pair[0].startswith(b"POST ")]
    (part,) = _http.unwrap(head, b"", WIDTH).parts
    assert part.declared == "application/x-www-form-urlencoded"
    assert part.data.startswith(b"p=")


@needs_real_data
def test_real_websocket_of_vmess() -> None:
    """An encrypted tunnel inside binary frames, both directions."""
    streams = real("benign", "tls_heur__vmess-websocket.pcapng")
    found = [_websocket.unwrap(head, s, WIDTH) for head, s in streams.values()]
    kinds = [part.declared for one in found if one for part in one.parts]
    assert kinds == ["websocket/binary"] * 2


@needs_real_data
def test_real_http_is_opened_without_framing() -> None:
    """In every benign HTTP stream no part begins with a header or a chunk size."""
    assert REAL is not None
    opened = 0
    for name in ("http.pcapng", "webdav.pcap", "soap.pcap", "http_connect.pcap",
                 "jsonrpc.pcap", "windowsupdate_over_http.pcap", "http_ipv6.pcap"):  # fmt: skip
        for head, slices in real("benign", name).values():
            if not head.startswith((b"GET ", b"POST ", b"HTTP/1.", b"PROPFIND ")):
                continue
            found = _http.unwrap(head, slices, WIDTH)
            if found is None:
                continue
            opened += 1
            for part in found.parts:
                assert not part.data.startswith((b"HTTP/1.", b"GET ", b"POST "))
                assert b"\r\nContent-Type: " not in part.data[:400]
    assert opened >= 8
