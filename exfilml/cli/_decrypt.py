"""The command `decrypt`."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from exfilml.cli._carve import CASE_FLOWS, CASE_MODEL, EVERY, HEX, case_flows
from exfilml.cli._keys import from_hex, keys_of
from exfilml.cli._options import FILE, OTHER_HOME, POLICY, QUIET
from exfilml.cli._output import check_writable, say
from exfilml.exceptions import OptionError, SourceError

if TYPE_CHECKING:
    from exfilml.carve import Stream
    from exfilml.triage.decrypt import Attempts

NO_KEY_FITS: Final = 1
MOST_BYTES: Final = 1 << 26
_LEAST: Final = 16


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes to decrypt, and what they are.

    With `again`, they are part of those before, to be tried if no key fits these.
    """

    name: str
    data: bytes
    again: bool = False


@click.command()
@click.argument("file", type=FILE)
@click.argument("case", default=EVERY)
@click.option(
    "--key",
    "keys",
    multiple=True,
    help="Key or password: hex, base64 or text, or one reading only with hex:, "
    "base64: or text: before it. Repeat for several.",
)
@click.option(
    "--key-file",
    "key_files",
    type=FILE,
    multiple=True,
    help="Keys, one a line, or the bytes of one key.",
)
@click.option(
    "--iv", "ivs", multiple=True, metavar="HEX", callback=from_hex,
    help="IV or nonce that is known.",
)  # fmt: skip
@click.option(
    "--salt", "salts", multiple=True, metavar="HEX", callback=from_hex,
    help="Salt of PBKDF2 or EVP_BytesToKey.",
)  # fmt: skip
@click.option(
    "--iterations",
    multiple=True,
    type=click.IntRange(1, 10**7),
    metavar="N",
    help="Iterations of PBKDF2.  [default: 1, 1000, 10000]",
)
@click.option(
    "--offset",
    "offsets",
    multiple=True,
    type=click.IntRange(0),
    metavar="N",
    help="Where the ciphertext begins.  [default: 0 to 16]",
)
@click.option("--out", type=FILE, help="Write the plaintext of the surest hit.")
@click.option(
    "--top",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    metavar="N",
    help="Of a capture, directions to try, the longest first.",
)
@HEX
@CASE_MODEL
@OTHER_HOME
@POLICY
@CASE_FLOWS
@QUIET
def decrypt(
    file: Path,
    case: str,
    keys: tuple[str, ...],
    key_files: tuple[Path, ...],
    ivs: tuple[bytes, ...],
    salts: tuple[bytes, ...],
    iterations: tuple[int, ...],
    offsets: tuple[int, ...],
    out: Path | None,
    top: int,
    head: int,
    model: Path | None,
    home: tuple[str, ...],
    policy: Path | None,
    flows: Path | None,
    *,
    quiet: bool,
) -> int:
    """Try keys on what was carved, and say which fits.

    FILE holds the bytes of one direction (exfilml carve --payload), or is a capture, of
    which CASE selects flows (default: all). Every reading of every key and what is
    derived from it is tried with every cipher, mode, place of the IV and offset. Without
    a key, a repeating XOR key over text is looked for.

    Exit status 0: a key fits. 1: no key fits. 2: something is to be mended.
    """
    from exfilml.export import printable

    if out is not None:
        check_writable(out, (str(file),), *key_files, model, policy, flows)
    known = [*keys, *keys_of(key_files)]
    options: dict[str, Any] = {"ivs": ivs, "salts": salts}
    options |= {"iterations": iterations} if iterations else {}
    options |= {"offsets": offsets} if offsets else {}
    best: tuple[tuple[bool, float], bytes] | None = None
    tried = pieces = 0
    with _pieces_of(file, case, top, flows, model, home, policy, quiet=quiet) as found:
        fits = False
        for piece in found:
            if piece.again and fits:
                continue
            pieces += 1
            attempts = _try(piece, known, options, quiet=quiet)
            tried += attempts.tried
            fits = bool(attempts.hits)
            if fits:
                hit = attempts.hits[0]
                _show(hit.plaintext[:head], attempts)
                rank = (not hit.proven, hit.false_hit)
                if best is None or rank < best[0]:
                    best = rank, hit.plaintext
            elif not attempts.looked_encrypted:
                click.echo(printable(f"  {_instead(piece.data)}"))
    if best is None:
        say(f"no key fits: {tried:,} attempts on {pieces:,} pieces of payload")
        return NO_KEY_FITS
    if out is not None:
        _write(out, best[1])
    return 0


def _try(
    piece: _Piece, keys: list[str], options: dict[str, Any], *, quiet: bool
) -> Attempts:
    """Try keys on a piece and say what came of it, or that it is too short."""
    from exfilml.export import printable
    from exfilml.triage.decrypt import Attempts, try_keys

    if len(piece.data) < _LEAST:
        click.echo(
            f"{piece.name}: {len(piece.data)} bytes, fewer than {_LEAST}: too few to tell "
            "a key that fits from chance"
        )
        return Attempts(0, (), (), looked_encrypted=True)
    progress = None if quiet else _progress
    attempts = try_keys(piece.data, keys, progress=progress, **options)
    click.echo(printable(f"{piece.name}: {attempts}"))
    return attempts


def _progress(tried: int) -> None:
    if tried % 20_000 == 0:
        say(f"{tried:,} attempts so far")


def _show(plain: bytes, attempts: Attempts) -> None:
    from exfilml.carve import hexdump

    if plain:
        click.echo("  " + hexdump(plain).replace("\n", "\n  "))
    for other in attempts.hits[1:]:
        iv = f", IV {other.iv_name}" if other.iv_name else ""
        click.echo(
            f"  also {other.cipher}, key {other.key.hex()} ({other.key_name}){iv}: "
            f"{len(other.plaintext):,} bytes of {other.magic or other.verdict}"
        )


def _instead(data: bytes) -> str:
    """Say what bytes are that are no ciphertext."""
    from exfilml.payload import find_magic, judge

    seen = judge(data[: 1 << 16])
    named = find_magic(data) or seen.magic
    what = f"{seen.verdict}{f' ({named})' if named else ''}"
    if seen.verdict == "compressed":
        return f"It is {what}: compressed, not encrypted. Unpack it."
    if seen.encoding is not None:
        return f"It is {what}: {seen.encoding}. Decode it first."
    return f"It is {what}."


@contextlib.contextmanager
def _pieces_of(
    file: Path, case: str, top: int, flows: Path | None, model: Path | None,
    home: tuple[str, ...], policy: Path | None, *, quiet: bool,
) -> Iterator[Iterator[_Piece]]:  # fmt: skip
    """Lend what is to be decrypted: a file, or the longest directions of a capture."""
    if not _is_capture(file):
        if case != EVERY:
            raise OptionError(f"{case}: a case needs a capture, and {file} is none.")
        yield iter([_Piece(str(file), _whole(file))])
        return
    from exfilml.carve import carve_packets, follow_streams

    table = case_flows(case, (str(file),), flows, model, home, policy, quiet=quiet)
    if not len(table):
        raise SourceError(f"{file}: holds no flows.")
    with tempfile.TemporaryDirectory(prefix="exfilml-") as folder:
        place = Path(folder) / "case.pcapng"
        carve_packets(file, table, place)
        streams = sorted(follow_streams(place, table), key=lambda s: -s.held)
        if not streams:
            raise SourceError(f"{file}: no flow of it carried anything.")
        if len(streams) > top:
            say(f"{top:,} of {len(streams):,} directions are tried; --top tries more")
        yield _of_streams(streams[:top], table)


def _of_streams(streams: list[Stream], table: Any) -> Iterator[_Piece]:
    """Give the first bytes without a gap of each direction."""
    from exfilml.carve import describe_streams

    named = describe_streams(streams, table, head=0)
    for stream, row in zip(streams, named.itertuples(index=False), strict=True):
        name = f"{row.source} → {row.destination} {row.protocol}"
        runs = stream.runs()
        if not stream.held:
            yield _Piece(f"{name}, nothing of it was captured", b"")
            continue
        begin, end = (int(at) for at in runs[0])
        end = min(end, begin + MOST_BYTES)
        if end - begin < stream.length:
            name += f", bytes {begin:,} to {end:,} of {stream.length:,}"
        yield _Piece(name, stream.read(begin, end - begin))
        # Each message may have an IV of its own.
        longest = _longest(stream)
        if longest is not None:
            yield _Piece(f"{name}, its longest message", longest, again=True)


def _longest(stream: Stream) -> bytes | None:
    """Return the longest of several messages, if all of it is there."""
    if stream.messages is None or len(stream.messages) < 2:
        return None
    which = int(stream.messages.argmax())
    begin = int(stream.messages[:which].sum())
    end = begin + int(stream.messages[which])
    there = any(a <= begin and end <= b for a, b in stream.runs().tolist())
    return stream.read(begin, end - begin) if there and end - begin >= _LEAST else None


def _is_capture(file: Path) -> bool:
    from exfilml.carve import is_capture

    return is_capture(file)


def _whole(file: Path) -> bytes:
    """Read a file of payload."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise SourceError(f"{file}: cannot be read: {error.strerror}.") from error
    if not data:
        raise SourceError(f"{file}: the file is empty: there is nothing to decrypt.")
    if len(data) > MOST_BYTES:
        say(f"{file}: only its first {MOST_BYTES:,} bytes are read")
    return data[:MOST_BYTES]


def _write(out: Path, plain: bytes) -> None:
    from exfilml.export import complete_file

    with complete_file(out) as part:
        part.write_bytes(plain)
    say(f"{len(plain):,} bytes of plaintext written to {out}")
