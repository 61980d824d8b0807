"""Vector instructions for minimal filtering, emitted through LLVM and called from functions that numba compiles.

An address is an integer, a stride is in bytes, and a vector holds `LANES` channels. See `filtering` for what they are for;
touch that file, too, when this one changes, or numba goes on with what it has kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic


def _count_lanes() -> int:
    try:
        return 16 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 8
    except RuntimeError:  # LLVM cannot tell on every system
        return 8


LANES = _count_lanes()
VECTOR_BYTES = 4 * LANES
ROWS = 3 * LANES // 4
"""Of a product of matrices at a time: with two vectors each, its sums fill three quarters of the registers."""

# By the taps along an axis, (results, taps): what transforms the values, the taps, and the products (B^T, G, A^T of Lavin and
# Gray). Three taps are theirs; two taps are made in the same way, from the points 0, 1, infinity and 0, 1, -1, 2, infinity.
VALUES = {
    (1, 1): np.eye(1),
    (2, 2): np.array([[1, -1, 0], [0, 1, 0], [0, 1, -1]]),
    (2, 3): np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
    (4, 2): np.array([[2, -1, -2, 1, 0], [0, 2, 1, -1, 0], [0, -2, 3, -1, 0], [0, -1, 0, 1, 0], [0, 2, -1, -2, 1]]),
    (4, 3): np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ]
    ),
}
TAPS = {
    (1, 1): np.eye(1),
    (2, 2): np.array([[1, 0], [1, 1], [0, 1]]),
    (2, 3): np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2,
    (4, 2): np.array([[3, 0], [3, 3], [1, -1], [1, 2], [0, 6]]) / 6,
    (4, 3): np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24,
}
PRODUCTS = {
    (1, 1): np.eye(1),
    (2, 2): np.array([[1, 1, 0], [0, 1, -1]]),
    (2, 3): np.array([[1, 1, 1, 0], [0, 1, -1, -1]]),
    (4, 2): np.array([[1, 1, 1, 1, 0], [0, 1, -1, 2, 0], [0, 1, 1, 4, 0], [0, 1, -1, 8, 1]]),
    (4, 3): np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]),
}
EDGE = 4
"""Results along y and along x of a tile."""

_INT, _FLOAT = ir.IntType(64), ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)


def _load(emit: Any, address: Any) -> Any:
    value = emit.load(emit.inttoptr(address, _VECTOR.as_pointer()))
    value.align = 4
    return value


def _store(emit: Any, value: Any, address: Any) -> None:
    emit.store(value, emit.inttoptr(address, _VECTOR.as_pointer())).align = 4


def _all_lanes(emit: Any, number: Any) -> Any:
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    first = emit.insert_element(nothing, number, ir.IntType(32)(0))
    return emit.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _multiply_add(emit: Any, a: Any, b: Any, c: Any) -> Any:
    function = emit.module.declare_intrinsic(f"llvm.fma.v{LANES}f32", (), ir.FunctionType(_VECTOR, [_VECTOR] * 3))
    return emit.call(function, [a, b, c])


def _at(emit: Any, address: Any, strides: Sequence[Any], place: Sequence[int]) -> Any:
    for stride, n in zip(strides, place, strict=True):
        address = emit.add(address, emit.mul(stride, _INT(n)))
    return address


def _combine(emit: Any, factors: np.ndarray, values: Sequence[Any]) -> Any:
    """The sum of values times constant factors; factors of one come first and cost no multiplication."""
    total = None
    for n in sorted(np.flatnonzero(factors), key=lambda n: -factors[n] if abs(factors[n]) == 1 else 2):
        factor, value = factors[n], values[n]
        constant = ir.Constant(_VECTOR, [float(factor)] * LANES)
        if total is None:
            total = value if factor == 1 else emit.fmul(constant, value)
        elif abs(factor) == 1:
            total = emit.fadd(total, value) if factor == 1 else emit.fsub(total, value)
        else:
            total = _multiply_add(emit, constant, value, total)
    return total


def _transform(emit: Any, matrix: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Transform a plane of vectors along y and along x."""
    lines = np.array([[_combine(emit, row, line) for row in matrix] for line in plane], object)
    return np.array([[_combine(emit, row, line) for row in matrix] for line in lines.T], object).T


def transforms(taps: int) -> tuple[Any, Any, Any]:
    """Make the three transforms of LANES channels of one plane of a tile, for so many taps along y and along x."""
    values, products = VALUES[EDGE, taps], PRODUCTS[EDGE, taps]
    points = len(values)

    def spread(matrix: np.ndarray) -> Any:
        def instructions(_: Any, emit: Any, __: Any, given: Any) -> Any:
            one, by, other, times, sy, sx, target, step = given
            by, times = _all_lanes(emit, by), _all_lanes(emit, times)
            plane = np.empty((matrix.shape[1],) * 2, object)
            for y, x in np.ndindex(plane.shape):
                first = emit.fmul(by, _load(emit, _at(emit, one, [sy, sx], [y, x])))
                plane[y, x] = _multiply_add(emit, times, _load(emit, _at(emit, other, [sy, sx], [y, x])), first)
            for n, point in enumerate(_transform(emit, matrix, plane).ravel()):
                _store(emit, point, _at(emit, target, [step], [n]))
            return ir.Constant(ir.IntType(8).as_pointer(), None)

        types_ = [types.int64, types.float32] * 2 + [types.int64] * 4
        return types.void(*types_), instructions

    @intrinsic  # type: ignore[untyped-decorator]
    def from_image(_, one, by, other, times, sy, sx, target, step):  # type: ignore[no-untyped-def]
        """Write the transformed values of two planes of a tile, added up after multiplying; `step` bytes between points."""
        return spread(values)

    @intrinsic  # type: ignore[untyped-decorator]
    def from_gradient(_, one, by, other, times, sy, sx, target, step):  # type: ignore[no-untyped-def]
        """The adjoint of `to_result`."""
        return spread(products.T)

    @intrinsic  # type: ignore[untyped-decorator]
    def to_result(_, source, step, target, place_step, how_first, how_second, plane_step):  # type: ignore[no-untyped-def]
        """Turn a tile's products, `step` bytes between points, into a plane of results, and bring them into two planes.

        How: 0 not at all, 1 written, 2 added, 3 subtracted.
        """

        def instructions(_: Any, emit: Any, __: Any, given: Any) -> Any:
            source, step, target, place_step, *how, plane_step = given
            plane = np.empty((points, points), object)
            for y, x in np.ndindex(plane.shape):
                plane[y, x] = _load(emit, _at(emit, source, [step], [y * points + x]))
            made = _transform(emit, products, plane).ravel()
            for row, way in enumerate(how):
                start = _at(emit, target, [plane_step], [row])
                after = emit.append_basic_block()
                choice = emit.switch(way, after)
                for number, change in ((1, None), (2, emit.fadd), (3, emit.fsub)):
                    block = emit.append_basic_block()
                    choice.add_case(_INT(number), block)
                    emit.position_at_end(block)
                    for n, value in enumerate(made):
                        place = _at(emit, start, [place_step], [n])
                        _store(emit, value if change is None else change(_load(emit, place), value), place)
                    emit.branch(after)
                emit.position_at_end(after)
            return ir.Constant(ir.IntType(8).as_pointer(), None)

        return types.void(*[types.int64] * 7), instructions

    return from_image, from_gradient, to_result


def product(rows: int, columns: int, *, add: bool) -> Any:
    """Make the product of matrices: `rows` rows and `columns` columns of sums over `n` terms, kept in registers."""
    vectors = columns // LANES
    places = [(r, v) for r in range(rows) for v in range(vectors)]

    @intrinsic  # type: ignore[untyped-decorator]
    def multiply(_, a, a_row, a_terms, b, b_term, c, c_row, n):  # type: ignore[no-untyped-def]
        """Write, or add, the products of `a` and `b` to `c`; `a_terms` is where the terms of `a` lie from its first, n numbers of bytes."""

        def instructions(_: Any, emit: Any, __: Any, given: Any) -> Any:
            a, a_row, a_terms, b, b_term, c, c_row, n = given
            targets = {(r, v): _at(emit, c, [c_row, _INT(VECTOR_BYTES)], [r, v]) for r, v in places}
            zero = ir.Constant(_VECTOR, [0.0] * LANES)
            first = {place: _load(emit, targets[place]) if add else zero for place in places}
            before, loop, after = emit.block, emit.append_basic_block(), emit.append_basic_block()
            emit.branch(loop)
            emit.position_at_end(loop)
            term, step_now, b_now = (emit.phi(_INT) for _ in range(3))
            sums = {place: emit.phi(_VECTOR) for place in places}
            a_now = emit.add(a, emit.load(emit.inttoptr(step_now, _INT.as_pointer())))
            from_b = [_load(emit, _at(emit, b_now, [_INT(VECTOR_BYTES)], [v])) for v in range(vectors)]
            new = {}
            for r in range(rows):
                number = emit.load(emit.inttoptr(_at(emit, a_now, [a_row], [r]), _FLOAT.as_pointer()))
                number.align = 4
                from_a = _all_lanes(emit, number)
                for v in range(vectors):
                    new[r, v] = _multiply_add(emit, from_a, from_b[v], sums[r, v])
            steps = ((term, _INT(0), _INT(1)), (step_now, a_terms, _INT(8)), (b_now, b, b_term))
            for now, start, step in steps:
                now.add_incoming(start, before)
                now.add_incoming(emit.add(now, step), loop)
            for place in places:
                sums[place].add_incoming(first[place], before)
                sums[place].add_incoming(new[place], loop)
            emit.cbranch(emit.icmp_signed("<", emit.add(term, _INT(1)), n), loop, after)
            emit.position_at_end(after)
            for place in places:
                _store(emit, new[place], targets[place])
            return ir.Constant(ir.IntType(8).as_pointer(), None)

        return types.void(*[types.int64] * 8), instructions

    return multiply


def panel_of(features: int) -> int:
    """How many features to work on at a time, two vectors or one; `features` is a multiple of 16."""
    return math.gcd(features, 2 * LANES)


_multiply_one = product(ROWS, LANES, add=False)
_multiply_two = product(ROWS, 2 * LANES, add=False)


@numba.njit(cache=True, nogil=True)
def multiply(a, a_row, a_terms, b, panel, c, c_row, n):  # type: ignore[no-untyped-def]
    """Write the product of ROWS rows of `a` and a panel `b`; see `product`, and `panel_of`."""
    if panel == LANES:
        _multiply_one(a, a_row, a_terms, b, panel * 4, c, c_row, n)
    else:
        _multiply_two(a, a_row, a_terms, b, panel * 4, c, c_row, n)


@intrinsic  # type: ignore[untyped-decorator]
def copy_vector(_, source, target):  # type: ignore[no-untyped-def]
    """Copy LANES channels, or write zeros where `source` is 0."""

    def instructions(_: Any, emit: Any, __: Any, given: Any) -> Any:
        source, target = given
        with emit.if_else(emit.icmp_signed("==", source, _INT(0))) as (nothing, something):
            with nothing:
                _store(emit, ir.Constant(_VECTOR, [0.0] * LANES), target)
            with something:
                _store(emit, _load(emit, source), target)
        return ir.Constant(ir.IntType(8).as_pointer(), None)

    return types.void(types.int64, types.int64), instructions


@intrinsic  # type: ignore[untyped-decorator]
def finish_vector(_, source, bias, least, target):  # type: ignore[no-untyped-def]
    """Add a bias to LANES channels, and raise what is below `least`; what is no number stays so."""

    def instructions(_: Any, emit: Any, __: Any, given: Any) -> Any:
        source, bias, least, target = given
        value, floor = emit.fadd(_load(emit, source), _load(emit, bias)), _all_lanes(emit, least)
        _store(emit, emit.select(emit.fcmp_ordered("<", value, floor), floor, value), target)
        return ir.Constant(ir.IntType(8).as_pointer(), None)

    return types.void(types.int64, types.int64, types.float32, types.int64), instructions
