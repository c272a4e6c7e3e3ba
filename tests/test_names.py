"""Text columns that hold each text once say what plain columns say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfilml import names
from exfilml.names import Names

COLUMN = st.lists(st.none() | st.text(max_size=2), max_size=8)


@pytest.fixture(params=[0, 50], autouse=True, scope="module")
def few(request):
    """Both ways of telling texts apart."""
    before, names.FEW = names.FEW, request.param
    yield
    names.FEW = before


def series(texts) -> pd.Series:
    return pd.Series(texts, dtype="str")


@given(COLUMN)
def test_a_column_comes_back_as_it_was(texts):
    column = series(texts)
    found = Names.of(column)
    assert found.tolist() == texts
    assert found.missing.tolist() == [text is None for text in texts]
    pd.testing.assert_series_equal(found.series(column.index), column)


@given(st.lists(st.tuples(st.booleans(), *2 * [st.none() | st.text(max_size=2)])))
def test_where_takes_from_either_column(rows):
    mine, ours, others = (
        (list(x) for x in zip(*rows, strict=True)) if rows else 3 * [[]]
    )
    taken = Names.of(series(ours)).where(
        np.array(mine, dtype=bool), Names.of(series(others))
    )
    expected = [a if m else b for m, a, b in rows]
    assert taken.tolist() == expected
    assert taken.filled("-").tolist() == ["-" if t is None else t for t in expected]
    assert taken[::-1].tolist() == expected[::-1]


@given(COLUMN)
def test_functions_are_asked_once_for_each_text(texts):
    asked = []

    def length(text: str) -> int:
        asked.append(text)
        return len(text)

    said = Names.of(series(texts)).each(length, missing=-1)
    assert said.tolist() == [-1 if t is None else len(t) for t in texts]
    assert sorted(asked) == sorted({t for t in texts if t is not None})
    upper = Names.of(series(texts)).map(lambda t: t.upper() or None)
    assert upper.tolist() == [t and (t.upper() or None) if t else None for t in texts]
