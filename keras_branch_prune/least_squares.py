"""Ridge least squares from sums over batches: memory does not depend on the number of samples."""

from __future__ import annotations

import dataclasses

import numpy as np


class Moments:
    """The sums that a linear least-squares fit of `targets ≈ inputs · W (+ b)` needs.

    Args:
        inputs: Number of columns of the inputs.
        targets: Number of columns of the targets.
    """

    def __init__(self, inputs: int, targets: int):
        self.rows = 0
        self._inputs = np.zeros(inputs)
        self._targets = np.zeros(targets)
        self._squares = np.zeros((inputs, inputs))
        self._products = np.zeros((inputs, targets))
        self._energy = 0.0

    def add(self, inputs: np.ndarray, targets: np.ndarray) -> None:
        """Adds rows: `inputs` of shape `(rows, inputs)`, `targets` of shape `(rows, targets)`."""
        self.rows += len(inputs)
        self._inputs += inputs.sum(axis=0, dtype=np.float64)
        self._targets += targets.sum(axis=0, dtype=np.float64)
        # The sums over one batch keep float32's precision; those over all batches need more.
        self._squares += inputs.T @ inputs
        self._products += inputs.T @ targets
        self._energy += float(np.square(targets, dtype=np.float64).sum())

    def solve(self, ridge: float, prior: np.ndarray | None = None, intercept: bool = False) -> Fit:
        """Returns the `W` (and `b`) that minimises `|targets − inputs·W − b|² + λ·|W − prior|²`.

        Args:
            ridge: λ as a multiple of the inputs' mean square.
            prior: Where `W` is pulled to, of shape `(inputs, targets)`; by default 0.
            intercept: Whether there is a `b`.
        """
        squares, products = self._squares, self._products
        if intercept:
            squares = squares - np.outer(self._inputs, self._inputs) / self.rows
            products = products - np.outer(self._inputs, self._targets) / self.rows
        penalty = ridge * max(np.trace(squares) / len(squares), np.finfo(np.float32).tiny)
        pulled = products if prior is None else products + penalty * prior
        matrix = np.linalg.solve(squares + penalty * np.eye(len(squares)), pulled)
        bias = (self._targets - self._inputs @ matrix) / self.rows if intercept else None
        return Fit(matrix, bias, self._error(matrix, bias), self._energy)

    def _error(self, matrix: np.ndarray, bias: np.ndarray | None) -> float:
        """Returns `|targets − inputs·matrix − bias|²`."""
        error = self._energy - 2 * (matrix * self._products).sum()
        error += (matrix * (self._squares @ matrix)).sum()
        if bias is not None:
            error += bias @ (self.rows * bias + 2 * (self._inputs @ matrix - self._targets))
        return max(float(error), 0.0)


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
