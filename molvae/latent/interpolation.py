"""Paths through the latent space. Shapes: n points, Z latent dimensions."""

from __future__ import annotations

import numpy as np

MIN_SINE = 1e-6  # of the angle between two points; below it they lie in one direction


def slerp(start: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """Interpolate spherically: the direction turns evenly from one point to another, and so does the distance from 0.

    A straight line would cut through the middle: in 64 dimensions halfway between two draws of N(0, 1) is a point
    nearer to 0 than any draw. Source: White 2016 (arXiv:1609.04468).

    Args:
        start: (Z,) point.
        end: (Z,) point; where one is 0, or they lie in one direction or opposite ones, the line is straight.
        steps: at least 2.

    Returns:
        (steps, Z) points, both ends included.

    >>> slerp(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 3).round(2).tolist()
    [[1.0, 0.0], [0.71, 0.71], [0.0, 1.0]]
    """
    fraction = np.linspace(0, 1, steps)[:, None]
    start_length, end_length = np.linalg.norm(start), np.linalg.norm(end)
    straight: np.ndarray = (1 - fraction) * start + fraction * end
    if not (start_length and end_length):
        return straight
    start_direction, end_direction = start / start_length, end / end_length
    angle = np.arccos(np.clip(start_direction @ end_direction, -1, 1))
    if np.sin(angle) < MIN_SINE:
        return straight
    turned = np.sin((1 - fraction) * angle) * start_direction + np.sin(fraction * angle) * end_direction
    directions = turned / np.sin(angle)
    points: np.ndarray = directions * ((1 - fraction) * start_length + fraction * end_length)
    return points


def sample_around(mu: np.ndarray, logvar: np.ndarray, n: int, radius: float, seed: int) -> np.ndarray:
    """Draw `n` points near a molecule, (n, Z): from its posterior, made `radius` times as wide.

    Args:
        mu: (Z,) mean of the molecule's posterior.
        logvar: (Z,) its log-variance.
        n: points.
        radius: in posterior widths: 1 is the posterior itself, 0 its mean.
        seed: of the draws.
    """
    noise = np.random.default_rng(seed).standard_normal((n, len(mu)))
    points: np.ndarray = mu + radius * np.exp(0.5 * logvar) * noise
    return points
