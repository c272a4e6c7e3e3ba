"""Calls into C, and raw memory, from compiled code.

An intrinsic below is one machine instruction or one C call. A C function is known by
its address, which is an argument like any other, so that compiled code can be cached
on disk. Integers are passed with the widths of the C prototypes, which `_engine_abi`
compares with those of the installed engine. numba's cache of the loop does not notice
a change here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_BYTE: Final = ir.IntType(8)
_WORD: Final = ir.IntType(64)
# What is a pointer in C is an address here.
_ADDRESS: Final = 64

Definition = tuple[Any, Callable[..., Any]]


def _in_place(definition: Callable[..., Definition]) -> Any:
    """Let compiled code have what is defined where it is called."""
    return intrinsic(definition)


def _c_call(result: int, arguments: tuple[int, ...]) -> Definition:
    """Define a call of a C function.

    Parameters
    ----------
    result
        Width in bits, 0 for none. 32 stands for an ``int``, with a sign; other
        integers have none.
    arguments
        Widths in bits of the arguments behind the function's address.
    """
    returned = ir.IntType(result) if result else ir.VoidType()
    expected = [ir.IntType(width) for width in arguments]

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        function = ir.FunctionType(returned, expected).as_pointer()
        values = [
            value if kind.width == _ADDRESS else builder.trunc(value, kind)
            for value, kind in zip(given[1:], expected, strict=True)
        ]
        extended = {
            at: ("zeroext",) for at, kind in enumerate(expected) if kind.width < 32
        }
        target = builder.inttoptr(given[0], function)
        value = builder.call(target, values, arg_attrs=extended)
        if result == 0:
            return context.get_dummy_value()
        if result == 32:
            return builder.sext(value, _WORD)
        return builder.zext(value, _WORD) if result < _ADDRESS else value

    answer = types.int64 if result else types.void
    return answer(*[types.int64] * (1 + len(arguments))), generate


@_in_place
def capture_next(
    typing: Any, at: Any, capture: Any, packet: Any, tunnels: Any, roots: Any,
    root: Any, mode: Any,
) -> Definition:  # fmt: skip
    """Read the next packet: 1 a packet, 2 a time, 0 ignored, -1 again, -2 the end."""
    return _c_call(32, (64, 64, 32, 32, 64, 32))


@_in_place
def initialize_flow(
    typing: Any, at: Any, packet: Any, accounting: Any, statistics: Any, splt: Any,
    dissections: Any, dissector: Any, sync: Any,
) -> Definition:  # fmt: skip
    """Make a flow of its first packet; return its address, or 0."""
    return _c_call(64, (64, 8, 8, 16, 8, 64, 8))


@_in_place
def update_flow(
    typing: Any, at: Any, flow: Any, packet: Any, idle: Any, active: Any,
    accounting: Any, statistics: Any, splt: Any, dissections: Any, dissector: Any,
    sync: Any,
) -> Definition:  # fmt: skip
    """Add a packet to a flow; 1 or 2 if it ended before, by idleness or by age."""
    return _c_call(8, (64, 64, 64, 64, 8, 8, 16, 8, 64, 8))


@_in_place
def expire_flow(
    typing: Any, at: Any, flow: Any, dissections: Any, dissector: Any
) -> Definition:
    """Let the dissector come to its conclusion."""
    return _c_call(0, (64, 8, 64))


@_in_place
def free_flow(
    typing: Any, at: Any, flow: Any, dissections: Any, splt: Any, full: Any
) -> Definition:
    """Free a flow."""
    return _c_call(0, (64, 8, 16, 8))


@_in_place
def copy_bytes(typing: Any, target: Any, source: Any, size: Any) -> Definition:
    """Copy memory between addresses."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        to, from_ = (builder.inttoptr(at, _BYTE.as_pointer()) for at in given[:2])
        cgutils.raw_memcpy(builder, to, from_, given[2], ir.Constant(_WORD, 1))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@_in_place
def clear_bytes(typing: Any, target: Any, size: Any) -> Definition:
    """Set memory to zero."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        pointer = builder.inttoptr(given[0], _BYTE.as_pointer())
        cgutils.memset(builder, pointer, given[1], 0)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@_in_place
def write_size(typing: Any, target: Any, value: Any) -> Definition:
    """Write a uint16 to an address."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        half = ir.IntType(16)
        pointer = builder.inttoptr(given[0], half.as_pointer())
        builder.store(builder.trunc(given[1], half), pointer, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@_in_place
def read_time(typing: Any, source: Any) -> Definition:
    """Read a uint64 from an address."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.load(builder.inttoptr(given[0], _WORD.as_pointer()), align=1)

    return types.uint64(types.int64), generate


@_in_place
def pointer_to(typing: Any, address: Any) -> Definition:
    """Turn an address into what `numba.carray` takes."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        return builder.inttoptr(given[0], _BYTE.as_pointer())

    return types.voidptr(types.int64), generate
