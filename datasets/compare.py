"""Where planted transfers rank, beside simple and well-known methods.

    python datasets/compare.py                      print the sample's tables
    python datasets/compare.py validate --write     put a split's into README.md
    python datasets/compare.py develop --attacks    with real attacks laid over it
    python datasets/compare.py develop --netflow    from flow records, without payload
    python datasets/compare.py --ablate             what each family of evidence earns
    python datasets/compare.py develop --honest 50  first cases that are no theft
    python datasets/compare.py develop --newcomers  with hosts the baseline never saw

Every method sees the same captures and the same cases (one local host, place and
service), and gives a case the score of its highest flow, or for upload and ratio that
of its sums; the detector gives its own case score, and once more that of a detector
learned without its forest. All are measured by `exfilml.evaluation.measure`; ties count
against a method. PyOD takes part where it is installed (``pip install exfilml[bench]``).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from comparison import ablation, newcomers, tables
from comparison.data import FOLDERS, REAL, Data

if TYPE_CHECKING:
    from collections.abc import Callable

README = Path(__file__).resolve().parent / "README.md"


def write(path: Path, name: str, text: str) -> None:
    """Put the tables between a file's markers."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    whole = path.read_text(encoding="utf-8")
    if begin not in whole or end not in whole:
        raise SystemExit(f"{path.name} has no place for it: add {begin} and {end}.")
    before, rest = whole.split(begin)
    after = rest.split(end)[1]
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line and refuse what does not go together."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "data", nargs="?", choices=FOLDERS,
        help="sample, or develop for --ablate, if not given",
    )  # fmt: skip
    parser.add_argument("--write", action="store_true", help="update README.md")
    parser.add_argument(
        "--attacks", action="store_true", help=f"lay ${REAL} over the split's test days"
    )
    parser.add_argument(
        "--netflow", action="store_true", help="take payload and applications away"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--ablate", nargs="?", choices=("families", "features"), const="families",
        help="what each family of evidence, or each feature too, earns",
    )  # fmt: skip
    mode.add_argument(
        "--honest", type=int, metavar="N",
        help="list the first N cases that are no theft and rank above one",
    )  # fmt: skip
    mode.add_argument(
        "--newcomers", action="store_true", help="false alarms of unknown hosts"
    )
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="forests for each ablation"
    )
    parser.add_argument(
        "--jobs", type=int, default=2, metavar="N", help="processes of an ablation"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR",
        help="keep flows tables there, and read them from there the next time",
    )  # fmt: skip
    asked = parser.parse_args(arguments)
    asked.data = asked.data or ("develop" if asked.ablate else "sample")
    if asked.attacks and (asked.data == "sample" or REAL not in os.environ):
        parser.error(f"--attacks needs a split of the lab, and ${REAL}")
    for name in ("seeds", "jobs", "honest"):
        given = getattr(asked, name)
        if given is not None and given < 1:
            parser.error(f"--{name}: got {given}, expected a number from 1 on")
    return asked


def text_of(asked: argparse.Namespace, data: Data) -> str:
    """Return the tables that are asked for, as Markdown."""
    seen = data.as_netflow() if asked.netflow else data
    if asked.ablate:
        each = asked.ablate == "features"
        return ablation.table(seen, asked.seeds, each=each, n_jobs=asked.jobs)
    if asked.newcomers:
        return newcomers.table(seen)
    ran = tables.Compared.of(seen)
    if asked.honest:
        return tables.dismissals(ran, asked.honest)
    text = tables.comparison(ran)
    if asked.netflow:
        text += "\n\n" + tables.visibility(ran, data)
    return text


def main(
    arguments: list[str] | None = None, say: Callable[[str], object] = print
) -> None:
    """Print the tables, and write them where asked."""
    asked = parse(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        if asked.attacks:
            data = Data.overlaid(asked.data, asked.keep)
        else:
            data = Data.of(asked.data, Path(scratch), asked.keep)
        text = text_of(asked, data)
    say(text)
    if asked.write:
        kinds = {
            "attacks": asked.attacks,
            "netflow": asked.netflow,
            "ablation": asked.ablate,
            "honest": asked.honest,
            "newcomers": asked.newcomers,
        }
        name = "-".join([asked.data, *(kind for kind, on in kinds.items() if on)])
        write(README, name, text)


if __name__ == "__main__":
    main()
