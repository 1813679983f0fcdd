"""From many dimensions to two: principal components, and t-SNE, which keeps neighbours together.

t-SNE (van der Maaten, Hinton 2008) gives each pair of points a probability, high for near ones, once among the vectors
and once on the map, and moves the points of the map until the two distributions agree:

    p_{j|i} ∝ exp(−‖xᵢ − xⱼ‖² βᵢ),   p_ij = (p_{j|i} + p_{i|j}) / 2n,   βᵢ such that i has about `perplexity` neighbours
    q_ij ∝ w_ij = 1 / (1 + ‖yᵢ − yⱼ‖²)
    ∂KL(P‖Q) / ∂yᵢ = 4 Σⱼ (p_ij − q_ij) w_ij (yᵢ − yⱼ)
"""

import numpy as np

_ITERATIONS, _EARLY, _EXAGGERATION = 750, 250, 12.0
_MOST = 5000  # points: all pairs are in memory, a few times


def principal_components(x: np.ndarray, n: int = 2) -> np.ndarray:
    """(N, d) → (N, n): the n orthogonal directions in which centred x spreads most, by its singular values.

    The sign is chosen so that the largest coordinate of each direction is positive. Directions that x lacks are zeros.
    """
    centred = x - x.mean(axis=0)
    u, s, _ = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    y = np.zeros((len(x), n))
    kept = min(n, len(s))
    y[:, :kept] = u[:, :kept] * s[:kept]
    y *= np.where(y[np.abs(y).argmax(axis=0), range(n)] < 0, -1, 1)
    return y


def t_sne(x: np.ndarray, *, perplexity: float = 15.0) -> np.ndarray:
    """(N, d) → (N, 2) by exact t-SNE from the principal components on: no chance is involved. 4 ≤ N ≤ 5000.

    Perplexity is lowered to (N − 1) / 3 where there are few points. Time and memory grow with N². Raises ValueError.
    """
    if not 4 <= len(x) <= _MOST:
        raise ValueError(f"t-SNE takes 4 to {_MOST:,} points, not {len(x):,}")
    p = joint_probabilities(x, min(perplexity, (len(x) - 1) / 3))
    y = principal_components(x)
    y *= 1e-4 / max(y[:, 0].std(), 1e-30)
    step, gains, rate = np.zeros_like(y), np.ones_like(y), max(len(x) / _EXAGGERATION / 4, 50)
    for iteration in range(_ITERATIONS):
        early = iteration < _EARLY
        slope = divergence_gradient(p * (_EXAGGERATION if early else 1), y)
        gains = np.maximum(np.where(slope * step < 0, gains + 0.2, gains * 0.8), 0.01)
        step = (0.5 if early else 0.8) * step - rate * gains * slope
        y = y + step
    y -= y.mean(axis=0)
    return y


def joint_probabilities(x: np.ndarray, perplexity: float) -> np.ndarray:
    """(N, N): p_ij, symmetric, summing to 1. Each βᵢ is found by bisection, for all points at once."""
    distances = _squared_distances(x.astype(np.float64))
    distances /= distances.mean() or 1
    low, high = np.full(len(x), -30.0), np.full(len(x), 30.0)  # log β
    for _ in range(60):
        middle = (low + high) / 2
        p: np.ndarray = _conditional(distances, np.exp(middle))
        entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1)
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    joint: np.ndarray = (p + p.T) / (2 * len(x))
    return joint


def _conditional(distances: np.ndarray, beta: np.ndarray) -> np.ndarray:
    others = distances + np.diag(np.full(len(distances), np.inf))
    p: np.ndarray = np.exp(-(others - others.min(axis=1, keepdims=True)) * beta[:, None])
    p /= p.sum(axis=1, keepdims=True)
    return p


def divergence_gradient(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(N, 2): 4 Σⱼ (p_ij − q_ij) w_ij (yᵢ − yⱼ)"""
    w = 1 / (1 + _squared_distances(y))
    np.fill_diagonal(w, 0)
    pull = (p - w / w.sum()) * w
    gradient: np.ndarray = 4 * (pull.sum(axis=1)[:, None] * y - pull @ y)
    return gradient


def _squared_distances(x: np.ndarray) -> np.ndarray:
    squares = (x * x).sum(axis=1)
    distances: np.ndarray = squares[:, None] + squares - 2 * x @ x.T
    np.maximum(distances, 0, out=distances)
    return distances
