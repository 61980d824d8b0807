"""Vector instructions for minimal filtering, emitted through LLVM and called from functions that numba compiles.

An address is an integer, a stride is in bytes, and a vector holds `LANES` channels. See `asem_models._winograd` for what they
are for; touch that file, too, when this one changes, or numba goes on with what it has kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding
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

# By the results along an axis: what transforms the values, the taps, and the products (B^T, G, A^T of Lavin and Gray).
VALUES = {
    1: np.eye(1),
    2: np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
    4: np.array(
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
    1: np.eye(1),
    2: np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2,
    4: np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24,
}
PRODUCTS = {
    1: np.eye(1),
    2: np.array([[1, 1, 1, 0], [0, 1, -1, -1]]),
    4: np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]),
}

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


def _along(emit: Any, matrix: np.ndarray, values: np.ndarray, axis: int) -> np.ndarray:
    """Multiply every line of `values` (vectors, zyx) along an axis with a matrix."""
    lines = np.moveaxis(values, axis, -1)
    made = np.empty((*lines.shape[:-1], len(matrix)), object)
    for place in np.ndindex(lines.shape[:-1]):
        made[place] = [_combine(emit, row, lines[place]) for row in matrix]
    return np.moveaxis(made, -1, axis)


def _transform(emit: Any, matrices: Sequence[np.ndarray], read: Callable[[tuple[int, ...]], Any]) -> np.ndarray:
    """Read a tile's values, zyx, and transform them along all axes."""
    depth, height, width = (matrix.shape[1] for matrix in matrices)
    planes = []
    for z in range(depth):
        plane = np.empty((1, height, width), object)
        for y, x in np.ndindex(height, width):
            plane[0, y, x] = read((z, y, x))
        planes.append(_along(emit, matrices[1], _along(emit, matrices[2], plane, 2), 1))
    return _along(emit, matrices[0], np.concatenate(planes), 0)


def transforms(results: Sequence[int]) -> tuple[Any, Any, Any]:
    """Make the three transforms of LANES channels of one tile."""
    values, products = [VALUES[m] for m in results], [PRODUCTS[m] for m in results]
    six = [types.int64] * 6

    def spread(matrices: Sequence[np.ndarray]) -> Any:
        def instructions(_: Any, emit: Any, __: Any, given: Any) -> Any:
            source, *strides, target, step = given
            points = _transform(emit, matrices, lambda place: _load(emit, _at(emit, source, strides, place)))
            for n, point in enumerate(points.ravel()):
                _store(emit, point, _at(emit, target, [step], [n]))
            return ir.Constant(ir.IntType(8).as_pointer(), None)

        return instructions

    @intrinsic  # type: ignore[untyped-decorator]
    def from_image(_, source, sz, sy, sx, target, step):  # type: ignore[no-untyped-def]
        """Write the transformed values of a tile, `step` bytes between points."""
        return types.void(*six), spread(values)

    @intrinsic  # type: ignore[untyped-decorator]
    def from_gradient(_, source, sz, sy, sx, target, step):  # type: ignore[no-untyped-def]
        """The adjoint of `to_result`."""
        return types.void(*six), spread([m.T for m in products])

    @intrinsic  # type: ignore[untyped-decorator]
    def to_result(_, source, step, bias, target, sz, sy, sx):  # type: ignore[no-untyped-def]
        """Write a tile of results from its products, `step` bytes between points."""
        tile = [m.shape[1] for m in products]

        def instructions(_: Any, emit: Any, __: Any, given: Any) -> Any:
            source, step, bias, target, *strides = given
            offset = _load(emit, bias)

            def read(place: tuple[int, ...]) -> Any:
                return _load(emit, _at(emit, source, [step], [int(np.ravel_multi_index(place, tile))]))

            made = _transform(emit, products, read)
            for place in np.ndindex(made.shape):
                _store(emit, emit.fadd(made[place], offset), _at(emit, target, strides, place))
            return ir.Constant(ir.IntType(8).as_pointer(), None)

        return types.void(*six, types.int64), instructions

    return from_image, from_gradient, to_result


def product(rows: int, columns: int, *, add: bool) -> Any:
    """Make the product of matrices: `rows` rows and `columns` columns of sums over `n` terms, kept in registers."""
    vectors = columns // LANES
    places = [(r, v) for r in range(rows) for v in range(vectors)]

    @intrinsic  # type: ignore[untyped-decorator]
    def multiply(_, a, a_row, a_term, b, b_term, c, c_row, n):  # type: ignore[no-untyped-def]
        def instructions(_: Any, emit: Any, __: Any, given: Any) -> Any:
            a, a_row, a_term, b, b_term, c, c_row, n = given
            targets = {(r, v): _at(emit, c, [c_row, _INT(VECTOR_BYTES)], [r, v]) for r, v in places}
            zero = ir.Constant(_VECTOR, [0.0] * LANES)
            first = {place: _load(emit, targets[place]) if add else zero for place in places}
            before, loop, after = emit.block, emit.append_basic_block(), emit.append_basic_block()
            emit.branch(loop)
            emit.position_at_end(loop)
            term, a_now, b_now = (emit.phi(_INT) for _ in range(3))
            sums = {place: emit.phi(_VECTOR) for place in places}
            from_b = [_load(emit, _at(emit, b_now, [_INT(VECTOR_BYTES)], [v])) for v in range(vectors)]
            new = {}
            for r in range(rows):
                number = emit.load(emit.inttoptr(_at(emit, a_now, [a_row], [r]), _FLOAT.as_pointer()))
                number.align = 4
                from_a = _all_lanes(emit, number)
                for v in range(vectors):
                    new[r, v] = _multiply_add(emit, from_a, from_b[v], sums[r, v])
            steps = ((term, _INT(0), _INT(1)), (a_now, a, a_term), (b_now, b, b_term))
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
