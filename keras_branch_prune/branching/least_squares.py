"""Ridge least squares from sums over batches: memory does not depend on the number of samples."""

from __future__ import annotations

import dataclasses

import numpy as np

_RANK = 1e-6
"""Share of the largest eigenvalue below which an eigenvalue may be rounding in float32 sums."""

_ROWS = 4096
"""Rows from which a product of wide matrices costs more than adding it to the sums."""


class Moments:
    """The sums that a linear least-squares fit of `targets ≈ inputs · W (+ b)` needs.

    All are taken about the means of the first batch, so that a large mean costs no precision.

    Args:
        inputs: Number of columns of the inputs.
        targets: Number of columns of the targets.
    """

    def __init__(self, inputs: int, targets: int):
        self.rows = 0
        self._origins = np.zeros(inputs), np.zeros(targets)
        self._sums = np.zeros(inputs), np.zeros(targets)
        self._squares = np.zeros((inputs, inputs))
        self._products = np.zeros((inputs, targets))
        self._energy = 0.0
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, inputs: np.ndarray, targets: np.ndarray) -> None:
        """Adds rows: `inputs` of shape `(rows, inputs)`, `targets` of shape `(rows, targets)`.

        The sums over a few thousand rows, or one batch, have the arrays' precision, all others
        float64.
        """
        if not self.rows:
            self._origins = inputs.mean(axis=0), targets.mean(axis=0)
        self.rows += len(inputs)
        x, y = inputs - self._origins[0], targets - self._origins[1]
        for total, rows in zip(self._sums, (x, y), strict=True):
            total += rows.sum(axis=0, dtype=np.float64)
        self._pending.append((x, y))
        if sum(len(rows) for rows, _ in self._pending) >= _ROWS:
            self._multiply()

    def _multiply(self) -> None:
        """Adds the products of the rows that wait for it."""
        if self._pending:
            x, y = (np.concatenate(parts) for parts in zip(*self._pending, strict=True))
            self._squares += x.T @ x
            self._products += x.T @ y
            self._energy += float(np.vdot(y, y))
            self._pending.clear()

    def solve(self, ridge: float, start: np.ndarray, intercept: bool = False) -> Fit:
        """Returns the `W` (and `b`) that minimises `|targets − inputs·W − b|² + λ·|W − start|²`.

        Where neither the rows nor the penalty say what `W` is, it is as near to `start` as can be.

        Args:
            ridge: λ as a multiple of the inputs' mean square (about their mean, with a `b`).
            start: Where `W` is pulled to, of shape `(inputs, targets)`.
            intercept: Whether there is a `b`.
        """
        self._multiply()
        (x, y), moments = self._means(), self._moments(raw=not intercept)
        energy = self._moments(raw=True)[2]
        squares, products, _ = moments
        matrix = start + _solve(squares, ridge, products - squares @ start)
        return Fit(matrix, y - x @ matrix if intercept else None, _error(matrix, *moments), energy)

    def _means(self) -> list[np.ndarray]:
        pairs = zip(self._origins, self._sums, strict=True)
        return [origin + total / self.rows for origin, total in pairs]

    def _moments(self, raw: bool) -> tuple[np.ndarray, np.ndarray, float]:
        """Returns squares, products and energy about zero, or about the means."""
        x, y = (total / self.rows for total in self._sums)
        squares = self._squares - self.rows * np.outer(x, x)
        products = self._products - self.rows * np.outer(x, y)
        energy = self._energy - self.rows * float(y @ y)
        if raw:
            x, y = self._means()
            squares += self.rows * np.outer(x, x)
            products += self.rows * np.outer(x, y)
            energy += self.rows * float(y @ y)
        return squares, products, energy


def _solve(squares: np.ndarray, ridge: float, right: np.ndarray) -> np.ndarray:
    """Returns `(squares + λ)⁻¹ · right`, or the smallest solution if there is hardly a penalty."""
    penalty = ridge * np.trace(squares) / len(squares)
    matrix = squares + penalty * np.eye(len(squares))
    if ridge > _RANK and penalty > 0:
        return np.linalg.solve(matrix, right)
    return np.linalg.lstsq(matrix, right, rcond=_RANK)[0]


def _error(matrix: np.ndarray, squares: np.ndarray, products: np.ndarray, energy: float) -> float:
    """Returns `|targets − inputs·matrix|²`; it is rounding below about 1e-6 of the energy."""
    error = energy - 2 * (matrix * products).sum() + (matrix * (squares @ matrix)).sum()
    return max(float(error), 0.0)


class ColumnStatistics:
    """The mean and variance of every column, from sums about the means of the first batch.

    Args:
        columns: Number of columns.
    """

    def __init__(self, columns: int):
        self.rows = 0
        self._origin = np.zeros(columns)
        self._sums = np.zeros(columns)
        self._squares = np.zeros(columns)

    def add(self, rows: np.ndarray) -> None:
        """Adds rows of shape `(rows, columns)`."""
        if not self.rows:
            self._origin = rows.mean(axis=0)
        self.rows += len(rows)
        rows = rows - self._origin
        self._sums += rows.sum(axis=0, dtype=np.float64)
        self._squares += np.square(rows, out=rows).sum(axis=0, dtype=np.float64)

    def mean(self) -> np.ndarray:
        """Returns the means, shape `(columns,)`."""
        return self._origin + self._sums / self.rows

    def variance(self) -> np.ndarray:
        """Returns the mean squares about the means, shape `(columns,)`."""
        return np.maximum(self._squares / self.rows - np.square(self._sums / self.rows), 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """A fitted linear map.

    Args:
        matrix: Of shape `(inputs, targets)`, float64.
        bias: Of shape `(targets,)`, or `None`.
        error: Sum of squared errors.
        energy: Sum of squared targets.
    """

    matrix: np.ndarray
    bias: np.ndarray | None
    error: float
    energy: float
