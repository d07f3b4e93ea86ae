"""The Fréchet distance between two sets of features, each seen as a Gaussian.

`|μ₁ − μ₂|² + Tr(C₁ + C₂ − 2 (C₁ C₂)^½)` (Dowson and Landau, 1982): with the features of a
classifier the measure by which generated images are compared with real ones (Heusel et al., "GANs
trained by a two time-scale update rule converge to a local Nash equilibrium", 2017). Everything is
float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of features.

    Attributes:
        mean: `(features,)`.
        covariance: `(features, features)`, symmetric and positive semidefinite.
        samples: How many samples they were estimated from.
    """

    mean: np.ndarray
    covariance: np.ndarray
    samples: int

    @classmethod
    def of(cls, features: np.ndarray) -> Gaussian:
        """Estimates mean and covariance.

        Args:
            features: `(samples, features)`, of at least two samples.

        Raises:
            ValueError: If the shape is another one, there are too few samples, or a value is NaN or
                infinite.
        """
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or len(features) < 2 or not features.shape[1]:
            raise ValueError(
                "`features` must be (samples, features), with at least two samples. "
                f"Received: shape {features.shape}"
            )
        if not np.isfinite(features).all():
            raise ValueError("`features` must be finite. Received: NaN or infinite values")
        covariance = np.atleast_2d(np.cov(features, rowvar=False))
        return cls(features.mean(axis=0), covariance, len(features))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Returns the squared Fréchet distance between two Gaussians, 0 where they are the same.

    The trace of `(C₁ C₂)^½` is that of `(C₁^½ C₂ C₁^½)^½`, and so the sum of the singular values of
    `C₁^½ C₂^½`: no root of an eigenvalue is taken that rounding has made negative or large.

    Args:
        first: Of the one set of features.
        second: Of the other one.

    Raises:
        ValueError: If they have different numbers of features.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            "Both Gaussians must have as many features. "
            f"Received: {first.mean.shape} and {second.mean.shape}"
        )
    roots = (_root(gaussian.covariance) for gaussian in (first, second))
    overlap = np.linalg.svd(np.matmul(*roots), compute_uv=False).sum()
    spread = np.trace(first.covariance) + np.trace(second.covariance) - 2 * overlap
    return float(np.sum((first.mean - second.mean) ** 2) + max(spread, 0.0))


def _root(covariance: np.ndarray) -> np.ndarray:
    """Returns the symmetric square root of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    # Features that never vary have eigenvalues of 0, which rounding makes negative.
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
