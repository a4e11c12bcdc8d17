"""Strokes as people write: the drawings of the tests, as points from 0 to 1, y downwards."""

from math import cos, pi, sin

Strokes = list[list[list[float]]]


def arc(x: float, y: float, across: float, down: float, begin: float, end: float) -> list:
    """Points of an ellipse about (x, y); angles in turns, clockwise from the right."""
    turns = [begin + (end - begin) * i / 12 for i in range(13)]
    return [[x + across * cos(2 * pi * t), y + down * sin(2 * pi * t)] for t in turns]


DRAWN: dict[str, Strokes] = {
    "3": [[*arc(0.47, 0.32, 0.17, 0.15, -0.4, 0.22), *arc(0.47, 0.64, 0.2, 0.18, -0.22, 0.4)]],
    # With a bar, as most writers of the data set have it.
    "7": [
        [[0.3, 0.2], [0.7, 0.2], [0.62, 0.4], [0.52, 0.6], [0.45, 0.85]],
        [[0.35, 0.52], [0.7, 0.52]],
    ],
    "1": [[[0.52, 0.15], [0.51, 0.5], [0.5, 0.85]]],
    # As most printed faces have it: a bow above a bowl, at a stem.
    "a": [
        [*arc(0.48, 0.36, 0.18, 0.14, -0.45, -0.02), [0.68, 0.5], [0.68, 0.84]],
        [[0.68, 0.54], *arc(0.48, 0.68, 0.2, 0.15, -0.2, -0.95), [0.68, 0.72]],
    ],
}
