"""Column-pivoted selection: which channel explains most of what is left."""

from __future__ import annotations

import numpy as np


def pivot_channels(
    products: np.ndarray,
    sensitivity: np.ndarray | None = None,
    order: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Takes channels one by one, and out of all others what the channel taken explains linearly.

    This is a pivoted Cholesky decomposition of `products`, and so a column-pivoted QR of the
    features.

    Args:
        products: `featuresᵀ · features`, of shape `(channels, channels)`.
        sensitivity: What errors in the features cost, of the same shape. What the channels taken do
            not explain has products X and costs `trace(sensitivity · X)`; each step takes the
            channel that lowers this most. Without it, X costs `trace(X)`, and each step takes the
            channel of which most is left.
        order: Takes the channels in this order instead.

    Returns:
        The channels in the order taken, and the cost after 0, 1, … of them, of shape
        `(channels + 1,)`, never rising.

    Example:
        >>> from keras_branch_prune.saliency.pivoting import pivot_channels
        >>> features = np.array([[3.0, 3.0, 0.0], [0.0, 0.0, 1.0]])
        >>> order, costs = pivot_channels(features.T @ features)
        >>> order.tolist(), costs.tolist()
        ([0, 2, 1], [19.0, 1.0, 0.0, 0.0])
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
    """What the channels taken so far leave of the others' products: X = G − LᵀL.

    X itself, `(channels, channels)`, is never formed: its diagonal and the rows of L are enough,
    and, with a sensitivity, what taking each channel would save. The matrices are float32, which is
    faster and exact enough; the sums are float64.
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
