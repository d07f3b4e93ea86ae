"""Column-pivoted selection: which channel explains most of what is left."""

from __future__ import annotations

import numpy as np


def pivots(
    products: np.ndarray,
    sensitivity: np.ndarray | None = None,
    order: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Takes channels one by one and what they explain linearly out of all others.

    This is a pivoted Cholesky decomposition of `products`, and so a column-pivoted QR of the
    features.

    Args:
        products: `featuresᵀ · features`, of shape `(channels, channels)`.
        sensitivity: What an error in the features costs: a remainder with the products X costs
            `trace(sensitivity · X)`, and the channel that lowers this most is taken. Without it, a
            remainder costs `trace(X)`, and the channel with the largest remainder is taken.
        order: Takes the channels in this order instead.

    Returns:
        The order, and the cost after 0, 1, … channels, of shape `(channels + 1,)`.
    """
    # Outputs may move so little that single precision would not see it.
    unit = 1.0 if sensitivity is None else float(np.abs(sensitivity).max(initial=0.0)) or 1.0
    left = _Remainder(products, None if sensitivity is None else sensitivity / unit)
    taken, errors = [], [left.error]
    for step in range(len(products)):
        channel = left.best() if order is None else int(order[step])
        left.take(channel)
        taken.append(channel)
        errors.append(left.error)
    # Rounding must not let costs rise or fall below zero.
    costs = unit * np.maximum([*errors[:-1], 0.0], 0.0)
    return np.array(taken), np.maximum.accumulate(costs[::-1])[::-1]


class _Remainder:
    """What is left of the features when some channels are taken out.

    The remainder G − LᵀL is never formed: it is known by its diagonal, and by what taking each
    channel would save. In float32, which is faster and fine enough.
    """

    def __init__(self, products: np.ndarray, sensitivity: np.ndarray | None):
        self._products = products.astype(np.float32)
        self._sensitivity = None if sensitivity is None else sensitivity.astype(np.float32)
        self._factor = np.zeros((len(products), len(products)), np.float32)
        self._taken = np.zeros(len(products), bool)
        self._diagonal = np.diag(products).astype(np.float64)
        self._negligible = 1e-6 * self._diagonal.max(initial=0.0)
        if self._sensitivity is None:
            self.error = float(np.trace(products))
        else:
            seen = self._sensitivity @ self._products
            self.error = float(np.trace(seen))
            self._savings = np.einsum("ij,ij->j", self._products, seen).astype(np.float64)

    def best(self) -> int:
        """Returns the channel to take next."""
        score = self._diagonal
        if self._sensitivity is not None:
            score = self._savings / np.maximum(self._diagonal, self._negligible or 1.0)
        # What is left of a channel that others explain is rounding; it comes last.
        score = np.where(self._diagonal > self._negligible, score, -1.0)
        return int(np.argmax(np.where(self._taken, -2.0, score)))

    def take(self, channel: int) -> None:
        """Takes a channel and what it explains out of all others."""
        # One step of a pivoted Cholesky decomposition, X ← X − c·cᵀ with c = X[:, channel] /
        # √X[channel, channel]; of X = G − LᵀL only the diagonal and the rows of L are kept.
        count, self._taken[channel] = int(self._taken.sum()), True
        if self._diagonal[channel] <= self._negligible:
            return
        known = self._factor[:count]
        column = self._products[channel] - known[:, channel] @ known
        column /= np.sqrt(max(column[channel], self._negligible))
        self._factor[count] = column
        self._diagonal -= np.square(column)
        if self._sensitivity is None:
            self.error -= float(column @ column)
            return
        # With S the sensitivity, taking channel j saves (X·S·X)[j, j] / X[j, j]. The numerators are
        # the savings: the diagonal of (X − c·cᵀ)·S·(X − c·cᵀ), multiplied out.
        seen = self._sensitivity @ column
        change = self._products @ seen - (known @ seen) @ known
        saved = float(column @ seen)
        self._savings += column * (saved * column - 2 * change)
        self.error -= saved
