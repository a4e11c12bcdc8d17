"""What the nets of a race make of a picture, while they train."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

import nn
from bench.demo.nets import NETS
from bench.demo.sources import Scale, Source
from bench.demo.strokes import Hand, Stroke


@dataclass(frozen=True)
class Picture:
    """A picture as the nets get it.

    Attributes:
        ink: (channels, height, width) from 0 to 1.
        values: (channels * height * width,) float32, normalised.
    """

    ink: NDArray[np.float64]
    values: NDArray[np.float32]


class Reader:
    """Reads pictures of one data set with nets of any weights; for use from any thread.

    Args:
        source: the data set, whose pictures say how a drawn one has to look.
        dtype: of the nets' numbers.
    """

    def __init__(self, source: Source, dtype: str):
        self._source, self._dtype = source, dtype
        self._dataset = source.load()
        raw = source.raw()
        self._scale = Scale.of(raw.x, self._dataset.x)
        pictures = self._scale.ink(self._dataset.x[:1000]).reshape(-1, *source.shape)
        self._hand = Hand.of(pictures[:, 0]) if source.written else None
        self._nets: dict[str, nn.Model] = {}
        self._lock = threading.Lock()
        self._rng = np.random.default_rng()

    @property
    def rows(self) -> int:
        """Training rows."""
        return len(self._dataset.x)

    @property
    def test_rows(self) -> int:
        return len(self._dataset.x_test)

    def draw(self, strokes: Sequence[Stroke]) -> Picture:
        """Make a picture of strokes.

        Raises:
            ValueError: there is no point, or the data set is not of pen strokes.
        """
        if self._hand is None:
            raise ValueError(f"{self._source.name} has no written characters: nothing to draw")
        ink = self._hand.picture(strokes)[None]
        return Picture(ink, self._scale.normal(ink).ravel())

    def example(self) -> tuple[Picture, int]:
        """Take a test picture at random, with its class."""
        row = int(self._rng.integers(len(self._dataset.x_test)))
        values = np.array(self._dataset.x_test[row])
        ink = self._scale.ink(values).reshape(self._source.shape)
        return Picture(ink, values), int(self._dataset.y_test[row])

    def read(self, picture: Picture, net: str, weights: NDArray) -> list[float | None]:
        """Return the probability of each class that a net with these weights gives the picture.

        A net whose training has left all bounds gives none.
        """
        with self._lock:
            model = self._nets.get(net)
            if model is None:
                model = NETS[net].build(self._source.shape, self._dataset.classes, self._dtype)
                self._nets[net] = model
            model.params[:] = weights
            outputs = model.outputs(picture.values[None])[0]
        probabilities = softmax(outputs.astype(float))
        return [float(each) if np.isfinite(each) else None for each in probabilities]
