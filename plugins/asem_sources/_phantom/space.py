"""The room inside a phantom cell: where there is cytoplasm, and what is already taken."""

from __future__ import annotations

import numpy as np

from asem_sources._phantom import shapes

MARGIN_NM = 250.0
"""Objects are placed this far beyond the image too, so that its border is as full as its middle."""


def unit(vector: np.ndarray) -> np.ndarray:
    """Scale vectors to length 1."""
    return vector / (np.linalg.norm(vector) + 1e-12)


def random_frame(rng: np.random.Generator) -> np.ndarray:
    """Draw three orthogonal unit vectors, one a row, zyx."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    return (q * np.sign(np.diag(r))).T


def frame_along(normal: np.ndarray) -> np.ndarray:
    """Complete a unit vector to three orthogonal ones; the given one is the last row."""
    helper = np.eye(3)[np.abs(normal).argmin()]
    first = unit(np.cross(normal, helper))
    return np.stack([first, np.cross(normal, first), normal])


class Space:
    """Free room, in nm; it fills up while a scene is built and is then thrown away."""

    def __init__(self, size_nm: np.ndarray, cell: np.ndarray, nucleus: np.ndarray) -> None:
        self.size_nm, self.cell, self.nucleus = size_nm, cell, nucleus
        self._centres, self._radii = np.zeros((0, 3)), np.zeros(0)
        sample = np.random.default_rng(0).uniform(-MARGIN_NM, size_nm + MARGIN_NM, (20_000, 3))
        share = float((self._body_clearance(sample) > 0).mean())
        self.cytoplasm_um3 = share * float(np.prod(size_nm + 2 * MARGIN_NM)) / 1e9

    def count(self, per_um3: float, rng: np.random.Generator) -> int:
        """Turn a density into a number of objects, rounding at random."""
        return int(per_um3 * self.cytoplasm_um3 + rng.random())

    def depth(self, points: np.ndarray) -> np.ndarray:
        """Distance below the plasma membrane in nm (very large without one)."""
        if self.cell[0] == shapes.NO_BODY:
            return np.full(len(points), shapes.FAR)
        return -shapes.body_distances(self.cell, points)[0]

    def _body_clearance(self, points: np.ndarray) -> np.ndarray:
        clear = self.depth(points)
        if self.nucleus[0] != shapes.NO_BODY:
            clear = np.minimum(clear, shapes.body_distances(self.nucleus, points)[0] - 25.0)
        return clear

    def clearance(self, points: np.ndarray, ignore: int = 0) -> np.ndarray:
        """Distance in nm from each point to the nearest thing; `ignore` leaves out the last so many spheres."""
        n = len(self._radii) - ignore
        clear = self._body_clearance(points)
        return _sphere_clearance(points, self._centres[:n], self._radii[:n], clear)

    def occupy(self, centres: np.ndarray, radii: np.ndarray) -> None:
        self._centres = np.concatenate([self._centres, centres])
        self._radii = np.concatenate([self._radii, radii])

    def random_points(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return rng.uniform(-MARGIN_NM, self.size_nm + MARGIN_NM, (count, 3))

    def random_point(self, rng: np.random.Generator) -> np.ndarray:
        return self.random_points(rng, 1)[0]

    def free_point(self, rng: np.random.Generator, gap: float, near_membrane: bool = False) -> np.ndarray | None:
        """Find a point with `gap` nm of room about it, or None."""
        points = self.random_points(rng, 400)
        free = self.clearance(points) > gap
        if near_membrane and (free & (self.depth(points) < 330)).any():
            free &= self.depth(points) < 330
        found = np.flatnonzero(free)
        return points[found[0]] if len(found) else None

    def table(self, names: str, rows: list[list[float]], reach: float) -> dict[str, np.ndarray]:
        """Make a truth table; `complete` tells whether a sphere of `reach` nm about the place lies inside the image."""
        columns = names.split()
        values = np.array(rows, float).reshape(-1, len(columns))
        table = {name: values[:, i] for i, name in enumerate(columns)}
        table["id"] = table["id"].astype(np.int64)
        if "z_nm" in table:
            at = np.stack([table["z_nm"], table["y_nm"], table["x_nm"]], 1)
            table["complete"] = ((at >= reach) & (at <= self.size_nm - reach)).all(1)
        return table


@shapes.jit
def _sphere_clearance(points, centres, radii, clear):
    for i in range(len(points)):
        best = clear[i]
        for j in range(len(centres)):
            dz, dy, dx = points[i, 0] - centres[j, 0], points[i, 1] - centres[j, 1], points[i, 2] - centres[j, 2]
            near = best + radii[j]
            if near > 0.0:
                square = dz * dz + dy * dy + dx * dx
                if square < near * near:
                    best = np.sqrt(square) - radii[j]
        clear[i] = best
    return clear
