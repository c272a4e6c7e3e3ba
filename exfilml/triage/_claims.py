"""What files of indicators claim, before anything of it is believed.

Readers fill these columns with texts as they stand in the file; `_indicators` decides
what they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa

from exfilml.triage._account import Account
from exfilml.triage._times import NEVER

HINTS: Final = ("address", "domain", "url", "fingerprint")
_TIME: Final = pa.timestamp("us")
SCHEMA: Final = pa.schema(
    [
        # As it stands in the file.
        ("text", pa.string()),
        # What the file says it is, one of `HINTS`; missing in lists.
        ("hint", pa.string()),
        ("port", pa.int32()),
        ("source", pa.string()),
        # 0 to 100.
        ("confidence", pa.float64()),
        # Of `TLP`.
        ("tlp", pa.string()),
        # UTC; missing means open.
        ("valid_from", _TIME),
        ("valid_until", _TIME),
        # What the indicator asks for beyond the text, in words; missing for nothing.
        ("unseen", pa.string()),
        ("reference", pa.string()),
        ("description", pa.string()),
    ]
)

# From what anyone may read to what stays with whom it was told.
TLP: Final = ("clear", "green", "amber", "amber+strict", "red")
_TLP_NAMES: Final = {"white": "clear", **{name: name for name in TLP}}
# STIX 2.1, appendix A: the scale None / Low / Med / High.
_WORDS: Final = {
    "none": 0.0,
    "low": 15.0,
    "med": 50.0,
    "medium": 50.0,
    "high": 85.0,
}


def tlp_of(given: object) -> str | None:
    """Return a label of the Traffic Light Protocol 2.0; `None` for what is none.

    Version 1's ``TLP:WHITE`` is ``clear``. Source: https://www.first.org/tlp/.
    """
    if not isinstance(given, str):
        return None
    name = re.sub(r"^tlp[:_\-\s]*", "", given.strip().lower())
    return _TLP_NAMES.get(re.sub(r"[_\-\s]+strict", "+strict", name))


def strictest(labels: list[str]) -> str | None:
    """Return the label that lets the fewest read."""
    return max(labels, key=TLP.index, default=None)


def confidence_of(given: object) -> float | None:
    """Return a confidence from 0 to 100, `None` for what is none."""
    if isinstance(given, str):
        given = _WORDS.get(given.strip().lower(), given.strip().rstrip("%"))
    try:
        number = float(given)  # type: ignore[arg-type]  # whatever JSON holds
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0.0 <= number <= 100.0 and not isinstance(given, bool) else None


def port_of(given: object) -> int | None:
    """Return a port, `None` for what is none."""
    if isinstance(given, str) and re.fullmatch(r"\d{1,5}", given.strip(), re.ASCII):
        given = int(given)
    good = isinstance(given, int) and not isinstance(given, bool) and 0 < given < 65536
    return given if good else None  # type: ignore[return-value]  # mypy: `good`


@dataclass(slots=True)
class Claims:
    """Claims of one file, row by row, for formats that are trees.

    Attributes
    ----------
    file
        Its name.
    account
        Of what is left out.
    """

    file: str
    account: Account
    _rows: list[tuple[Any, ...]] = field(default_factory=list)

    def add(self, text: str, hint: str | None, about: Mapping[str, Any]) -> None:
        """Add a claim.

        Parameters
        ----------
        text, hint
            As in `SCHEMA`.
        about
            The other columns; those left out are missing.
        """
        rest = (about.get(name) for name in SCHEMA.names[2:])
        self._rows.append((text, hint, *rest))

    def left_out(
        self, reason: str, first: object = None, *, is_news: bool = True
    ) -> None:
        """Count something of the file that was no claim."""
        self.account.add(self.file, reason, 1, first, is_news=is_news)

    def table(self) -> pa.Table:
        """Return the claims as a table of `SCHEMA`."""
        columns = list(zip(*self._rows, strict=True)) or [()] * len(SCHEMA.names)
        return pa.table(
            {
                name: _array(values, SCHEMA.field(name).type)
                for name, values in zip(SCHEMA.names, columns, strict=True)
            },
            schema=SCHEMA,
        )


def _array(values: tuple[Any, ...], kind: Any) -> Any:
    if kind == _TIME:
        times = [NEVER if value is None else value for value in values]
        return pa.array(np.array(times, "datetime64[us]"), kind, from_pandas=True)
    return pa.array(values, kind)


def same(value: object, n: int, kind: Any) -> Any:
    """Return an Arrow array of one value."""
    return pa.array([value], kind).take(pa.array(np.zeros(n, np.int32)))
