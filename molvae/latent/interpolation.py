"""Ways through the latent space. Shapes: n points, Z latent dimensions."""

from __future__ import annotations

import numpy as np

PARALLEL = 1e-6  # sine of the angle under which two points lie in one direction


def between(start: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """Points from one to another, both included, (steps, Z): turned evenly, while the distance from 0 changes evenly.

    A straight line would cut through the middle: in 64 dimensions halfway between two draws of N(0, 1) is a point
    nearer to 0 than any draw. Source: White 2016 (arXiv:1609.04468).

    Args:
        start, end: (Z,) points; where one is 0, or they lie in one direction or opposite ones, the line is straight.
        steps: at least 2.
    """
    share = np.linspace(0, 1, steps)[:, None]
    lengths = np.linalg.norm(start), np.linalg.norm(end)
    straight = (1 - share) * start + share * end
    if not all(lengths):
        return straight
    one, other = start / lengths[0], end / lengths[1]
    angle = np.arccos(np.clip(one @ other, -1, 1))
    if np.sin(angle) < PARALLEL:
        return straight
    directions = (np.sin((1 - share) * angle) * one + np.sin(share * angle) * other) / np.sin(angle)
    return directions * ((1 - share) * lengths[0] + share * lengths[1])


def around(mu: np.ndarray, logvar: np.ndarray, n: int, radius: float, seed: int) -> np.ndarray:
    """`n` points near a molecule, (n, Z): draws of its posterior, `radius` times as wide.

    Args:
        mu, logvar: (Z,) posterior of the molecule.
        radius: in posterior units: 1 is the posterior itself, 0 its mean.
    """
    noise = np.random.default_rng(seed).standard_normal((n, len(mu)))
    return mu + radius * np.exp(0.5 * logvar) * noise
