"""The walk through a STIX pattern by OASIS's grammar.

Apart from `exfilml.triage._stix_pattern`, because the package `stix2-patterns` is
optional. Methods have the names of the grammar's rules.
"""

from __future__ import annotations

from typing import Any

from stix2patterns.exceptions import ParseException
from stix2patterns.v21.grammars.STIXPatternListener import STIXPatternListener
from stix2patterns.v21.pattern import Pattern

from exfilml.triage._stix_pattern import (
    MORE,
    MOST_ALTERNATIVES,
    OTHER,
    NoPatternError,
    Term,
    term_of,
    unescaped,
)


def parse(pattern: str) -> list[tuple[Term, ...]]:
    """Return the alternatives of a pattern: what must hold together in each.

    Raises
    ------
    NoPatternError
        If it is no pattern, or has too many alternatives.
    """
    found = _Alternatives()
    try:
        Pattern(pattern).walk(found)
    except ParseException as reason:
        raise NoPatternError(str(reason)) from reason
    (ways,) = found.stack
    return ways


class _Alternatives(STIXPatternListener):  # type: ignore[misc]  # untyped
    """Turns a pattern into alternatives, from the leaves upwards."""

    def __init__(self) -> None:
        self.stack: list[list[tuple[Term, ...]]] = []
        self._type = ""
        self._path: list[str] = []

    def exitObjectType(self, ctx: Any) -> None:  # noqa: N802 - the grammar's name
        self._type = ctx.getText()

    def exitFirstPathComponent(self, ctx: Any) -> None:  # noqa: N802
        self._path = [_text(ctx)]

    def exitKeyPathStep(self, ctx: Any) -> None:  # noqa: N802
        self._path.append(_text(ctx).removeprefix("."))

    def exitIndexPathStep(self, ctx: Any) -> None:  # noqa: N802
        self._path.append(ctx.getText())

    def exitPropTestEqual(self, ctx: Any) -> None:  # noqa: N802
        self._equal(ctx, [ctx.primitiveLiteral()], is_not=ctx.NEQ() is not None)

    def exitPropTestSet(self, ctx: Any) -> None:  # noqa: N802
        self._equal(ctx, ctx.setLiteral().primitiveLiteral())

    def exitPropTestIsSubset(self, ctx: Any) -> None:  # noqa: N802
        self._equal(ctx, [ctx.StringLiteral()])

    def _equal(self, ctx: Any, values: Any, *, is_not: bool = False) -> None:
        path = f"{self._type}:{'.'.join(self._path)}"
        if ctx.NOT() or is_not:
            self.stack.append([(OTHER,)])
        else:
            self.stack.append([(term_of(path, _literal(v)),) for v in values])

    def _not_understood(self, ctx: Any) -> None:
        self.stack.append([(OTHER,)])

    exitPropTestOrder = _not_understood  # noqa: N815 - the grammar's names
    exitPropTestLike = _not_understood  # noqa: N815
    exitPropTestRegex = _not_understood  # noqa: N815
    exitPropTestIsSuperset = _not_understood  # noqa: N815
    exitPropTestExists = _not_understood  # noqa: N815

    def _either(self, ctx: Any) -> None:
        if ctx.OR():
            last = self.stack.pop()
            self.stack.append([*self.stack.pop(), *last])

    exitComparisonExpression = _either  # noqa: N815
    exitObservationExpressionOr = _either  # noqa: N815

    def exitComparisonExpressionAnd(self, ctx: Any) -> None:  # noqa: N802
        if ctx.AND():
            last, first = self.stack.pop(), self.stack.pop()
            if len(first) * len(last) > MOST_ALTERNATIVES:
                raise NoPatternError(f"more than {MOST_ALTERNATIVES:,} alternatives")
            self.stack.append([(*a, *b) for a in first for b in last])

    def exitObservationExpressionAnd(self, ctx: Any) -> None:  # noqa: N802
        if ctx.AND():
            self._both()

    def exitObservationExpressions(self, ctx: Any) -> None:  # noqa: N802
        if ctx.FOLLOWEDBY():
            self._both()

    def _both(self) -> None:
        self.stack.pop()
        self.stack[-1] = [(MORE,)]

    def _qualified(self, ctx: Any) -> None:
        self.stack[-1] = [(MORE,)]

    exitObservationExpressionRepeated = _qualified  # noqa: N815
    exitObservationExpressionWithin = _qualified  # noqa: N815
    exitObservationExpressionStartStop = _qualified  # noqa: N815


def _text(ctx: Any) -> str:
    quoted = ctx.StringLiteral()
    return _literal(quoted) if quoted else ctx.getText()


def _literal(node: Any) -> str:
    text: str = node.getText()
    return unescaped(text[1:-1]) if text.startswith("'") else text
