"""A clock by which pytest-benchmark reads times that were taken before."""

from collections.abc import Sequence


class Replay:
    """A clock that shows the rounds it was given.

    pytest-benchmark's `pedantic` reads its clock exactly twice a round. It must not time what is
    measured itself, since each rank would measure its own time.
    """

    def __init__(self) -> None:
        self._readings: list[float] = []

    def load(self, seconds: Sequence[float]) -> None:
        """Take the rounds to show, in order."""
        # From 0, since a difference of two other numbers would be rounded.
        self._readings = [reading for time in reversed(seconds) for reading in (time, 0.0)]

    def __call__(self) -> float:
        return self._readings.pop()


replay = Replay()
