"""Ridge regression from sums over batches: memory does not depend on the number of samples."""

from __future__ import annotations

import dataclasses

import numpy as np

_ROUNDING = 1e-6
"""An eigenvalue below this share of the largest one may be rounding in float32 sums."""

_ROWS_AT_ONCE = 4096
"""Rows that are collected and multiplied together; of few rows the product would cost less than
adding it to the sums."""


class Moments:
    """The sums that a linear least-squares fit of `targets ≈ inputs · W (+ b)` needs.

    All are taken about the means of the first batch: about 0, squares of a large mean would drown
    the variance.

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

        Products of a few thousand rows, or of one batch, are computed in the dtype of the arrays
        and summed in float64.
        """
        if not self.rows:
            self._origins = inputs.mean(axis=0), targets.mean(axis=0)
        self.rows += len(inputs)
        x, y = inputs - self._origins[0], targets - self._origins[1]
        for total, rows in zip(self._sums, (x, y), strict=True):
            total += rows.sum(axis=0, dtype=np.float64)
        self._pending.append((x, y))
        if sum(len(rows) for rows, _ in self._pending) >= _ROWS_AT_ONCE:
            self._multiply()

    def _multiply(self) -> None:
        """Adds the products of the collected rows to the sums."""
        if self._pending:
            x, y = (np.concatenate(parts) for parts in zip(*self._pending, strict=True))
            self._squares += x.T @ x
            self._products += x.T @ y
            self._energy += float(np.vdot(y, y))
            self._pending.clear()

    def solve(self, ridge: float, start: np.ndarray, intercept: bool = False) -> Fit:
        """Returns the `W` (and `b`) that minimises `|targets − inputs·W − b|² + λ·|W − start|²`.

        Where neither the rows nor the penalty determine `W`, it is the one nearest to `start`.

        Args:
            ridge: λ as a multiple of the inputs' mean square (about their mean, with a `b`).
            start: Where `W` is pulled to, of shape `(inputs, targets)`.
            intercept: Whether there is a `b`.
        """
        self._multiply()
        (x, y), moments = self._means(), self._moments(raw=not intercept)
        energy = self._moments(raw=True)[2]
        squares, products, _ = moments
        # With V = W − start it is plain ridge regression: (XᵀX + λ) V = Xᵀ(Y − X·start).
        matrix = start + _solve(squares, ridge, products - squares @ start)
        return Fit(matrix, y - x @ matrix if intercept else None, _error(matrix, *moments), energy)

    def _means(self) -> list[np.ndarray]:
        pairs = zip(self._origins, self._sums, strict=True)
        return [origin + total / self.rows for origin, total in pairs]

    def _moments(self, raw: bool) -> tuple[np.ndarray, np.ndarray, float]:
        """Returns XᵀX, XᵀY and |Y|², about the means of all rows, or about 0 if `raw`."""
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
    """Returns `(squares + λ)⁻¹ · right`; with hardly a penalty, the solution of least norm."""
    penalty = ridge * np.trace(squares) / len(squares)
    matrix = squares + penalty * np.eye(len(squares))
    if ridge > _ROUNDING and penalty > 0:
        return np.linalg.solve(matrix, right)
    return np.linalg.lstsq(matrix, right, rcond=_ROUNDING)[0]


def _error(matrix: np.ndarray, squares: np.ndarray, products: np.ndarray, energy: float) -> float:
    """Returns `|Y − X·W|²` from the sums; below about 1e-6 of the energy it is only rounding."""
    # |Y|² − 2·⟨W, XᵀY⟩ + ⟨W, XᵀX·W⟩, where rounding may leave less than 0.
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
        # A new array, in which the squares can be computed in place.
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
