"""A value of a file of a triage, and where it stands in the file."""

from __future__ import annotations

import json
import re
import sys
from typing import Any, Final

import numpy as np
import pandas as pd

from exfilml.columns import FIRST_YEAR, LAST_YEAR
from exfilml.schema import are_addresses

MOST_DEPTH: Final = 8


class DamagedError(Exception):
    """A value is not what stands in a triage; the text says where."""


class Node:
    """A value and where it stands. Each method returns it, or says what it is not."""

    def __init__(self, value: Any, where: str) -> None:
        self.value = value
        self.where = where

    def fail(self, expected: str) -> DamagedError:
        told = json.dumps(self.value)[:60]
        return DamagedError(
            f"{self.where or 'the file'} is {told}, expected {expected}"
        )

    @property
    def is_there(self) -> bool:
        return self.value is not None

    def __getitem__(self, name: str) -> Node:
        where = self._below(name)
        if not isinstance(self.value, dict):
            raise self.fail("an object")
        if name not in self.value:
            raise DamagedError(f"{where} is missing")
        return Node(self.value[name], where)

    def _below(self, name: str) -> str:
        return f"{self.where}.{name}" if self.where else name

    def named(self) -> list[tuple[str, Node]]:
        if not isinstance(self.value, dict):
            raise self.fail("an object")
        return [(name, Node(v, self._below(name))) for name, v in self.value.items()]

    def items(self) -> list[Node]:
        if not isinstance(self.value, list):
            raise self.fail("a list")
        return [Node(v, f"{self.where}[{n}]") for n, v in enumerate(self.value)]

    def some(self) -> list[Node]:
        if not self.items():
            raise self.fail("a list that is not empty")
        return self.items()

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.fail("text")
        return self.value

    def one_of(self, *known: str) -> str:
        if self.text() not in known:
            raise self.fail("one of " + ", ".join(known))
        return self.text()

    def match(self, form: re.Pattern[str], expected: str) -> str:
        if not form.fullmatch(self.text()):
            raise self.fail(expected)
        return self.text()

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.fail("true or false")
        return self.value

    def number(self) -> float:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.fail("a number")
        # Also of a number that has too many digits.
        if not -sys.float_info.max <= self.value <= sys.float_info.max:
            raise self.fail("a number")
        return self.value

    def whole(self, most: int) -> int:
        number = self.number()
        if not 0 <= number <= most or number != int(number):
            raise self.fail(f"a whole number up to {most:,}")
        return int(number)

    def time(self) -> pd.Timestamp:
        try:
            time = pd.Timestamp(self.text())
        except (ValueError, OverflowError) as error:
            raise self.fail("a time in UTC") from error
        if pd.isna(time) or time.tzinfo is None:
            raise self.fail("a time in UTC")
        if not FIRST_YEAR <= time.year <= LAST_YEAR:
            raise self.fail(f"a time from {FIRST_YEAR} to {LAST_YEAR}")
        return time.tz_convert("UTC").as_unit("us")

    def address(self) -> str:
        if not are_addresses(np.array([self.text()], dtype=object))[0]:
            raise self.fail("an address")
        return self.text()

    def scalar(self, depth: int = 0) -> Any:
        """Return text, a number, a flag or nothing; also lists and records of such."""
        if isinstance(self.value, list | dict) and depth > MOST_DEPTH:
            raise self.fail("values that are nested less deeply")
        if isinstance(self.value, list):
            return tuple(part.scalar(depth + 1) for part in self.items())
        if isinstance(self.value, dict):
            return {name: part.scalar(depth + 1) for name, part in self.named()}
        if isinstance(self.value, int | float) and not isinstance(self.value, bool):
            return self.number()
        return self.value
