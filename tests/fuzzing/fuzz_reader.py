"""Feeds one reader of logs with what atheris makes of good logs.

Run as ``python tests/fuzzing/fuzz_reader.py READER CORPUS SECONDS``: READER is a module
of `exfilml.sources`, CORPUS a folder that holds seeds and gets what was found. Ends
with status 0 if every input ended in flows or in one clear error; libFuzzer keeps the
input that did not beside the corpus.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["exfilml.sources"]):
    from exfilml.exceptions import FlowsError, SourceError
    from exfilml.sources._reading import Options
    from exfilml.sources._tables import join

    READER = importlib.import_module(f"exfilml.sources.{sys.argv[1]}")

HEAD = 1 << 16
PATH = Path(tempfile.mkdtemp(prefix="exfilml-fuzz-")) / "log"


def one_input(data: bytes) -> None:
    """Read what atheris made; anything but flows or our own errors is a finding."""
    if not READER.detect(data[:HEAD]):
        return
    PATH.write_bytes(data)
    try:
        # The pool is for captures.
        flows = READER.read(PATH, Options(None, timezone="UTC")).flows
        if len(flows):
            join([flows])
    except (SourceError, FlowsError):
        return


def main() -> None:
    """Fuzz for as long as was asked."""
    warnings.simplefilter("ignore")
    _, _, corpus, seconds = sys.argv
    atheris.Setup(
        [
            sys.argv[0],
            corpus,
            f"-artifact_prefix={corpus}-",
            f"-max_total_time={seconds}",
            f"-max_len={HEAD}",
            "-timeout=30",
            "-rss_limit_mb=3072",
            "-print_final_stats=1",
        ],
        one_input,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
