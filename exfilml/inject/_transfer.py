"""What to plant, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from exfilml.columns import MAX_BYTES
from exfilml.exceptions import OptionError
from exfilml.inject._carriers import CARRIERS

PLACES: Final = ("new", "near", "known")
MOST_FLOWS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Transfer:
    """An upload of one day to plant.

    Attributes
    ----------
    carrier
        Key of `CARRIERS`.
    up_bytes
        Bytes of data that leave in the day, before any encoding and header.
    flows
        Into how many flows they are cut, spread over the host's active hours.
    place
        ``new``: name, address and network; ``near``: a new name and address in a
        network that the site's flows to the same port use (to any port, where none
        goes there); or ``known``: a place that flows to the same port use.

    Raises
    ------
    OptionError
        If one of these is none.
    """

    carrier: str
    up_bytes: int
    flows: int = 1
    place: str = "new"

    def __post_init__(self) -> None:
        """Refuse what cannot be planted."""
        if self.carrier not in CARRIERS:
            raise OptionError(
                f"carrier {self.carrier!r}: expected one of {', '.join(CARRIERS)}."
            )
        if self.place not in PLACES:
            raise OptionError(f"place {self.place!r}: expected new, near or known.")
        check_count("up_bytes", self.up_bytes, MAX_BYTES // 4)
        check_count("flows", self.flows, MOST_FLOWS)
        if self.flows > self.up_bytes:
            raise OptionError(
                f"{self.up_bytes} bytes cannot be cut into {self.flows} flows: give at "
                "least one byte for each."
            )


def check_count(name: str, value: object, most: int) -> None:
    """Refuse what is no whole number from 1 to `most`.

    Raises
    ------
    OptionError
        With what was given.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not (whole and 1 <= value <= most):  # type: ignore[operator]
        raise OptionError(
            f"{name}: got {value!r}, expected a whole number from 1 to {most:,}."
        )
