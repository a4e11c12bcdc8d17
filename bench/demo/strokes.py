"""From the strokes of a pen to a picture like those of a data set.

The data set itself says how tall and wide its characters are, where their ink has its centre, and
how thick the pen was. What is drawn is scaled to that height, or less if it would be too wide, and
its centre of mass is brought to that centre, as was done for MNIST (LeCun et al. 1998, section
III.A).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Stroke = Sequence[Sequence[float]]
"""Points (x, y) of a pen that was not lifted, in any unit, y downwards."""

_INK = 0.5  # share of full ink from which a pixel belongs to the character
_LOOKED_AT = 1000  # pictures from which a hand is found out
_NEAR = 0.25  # pixels; points of a stroke that are nearer to each other are one


@dataclass(frozen=True)
class Hand:
    """How the characters of a data set are written.

    Attributes:
        height, width: of a picture, pixels.
        tall: median height of the ink, pixels.
        widest: width of the ink that one character in twenty exceeds, pixels.
        centre: mean centre of mass of the ink: row and column.
        pen: thickness of a stroke, pixels.
        binary: whether a pixel has ink or none.
    """

    height: int
    width: int
    tall: float
    widest: float
    centre: tuple[float, float]
    pen: float
    binary: bool

    @classmethod
    def of(cls, pictures: NDArray) -> "Hand":
        """Find the hand of pictures, (n, height, width) of ink from 0 to 1."""
        pictures = pictures[:_LOOKED_AT]
        _, height, width = pictures.shape
        dark = pictures > _INK
        dark = dark[dark.any((1, 2))]
        tall = [np.ptp(np.flatnonzero(each.any(1))) + 1 for each in dark]
        wide = [np.ptp(np.flatnonzero(each.any(0))) + 1 for each in dark]
        mass = pictures.sum((1, 2))
        row = (pictures.sum(2) @ np.arange(height))[mass > 0] / mass[mass > 0]
        column = (pictures.sum(1) @ np.arange(width))[mass > 0] / mass[mass > 0]
        return cls(
            height,
            width,
            float(np.median(tall)),
            float(np.percentile(wide, 95)),
            (float(row.mean()), float(column.mean())),
            _thickness(dark),
            bool(np.isin(pictures, (0, 1)).all()),
        )

    def picture(self, strokes: Sequence[Stroke]) -> NDArray[np.float64]:
        """Draw strokes: (height, width) of ink from 0 to 1.

        Raises:
            ValueError: there is no point.
        """
        if not any(len(stroke) for stroke in strokes):
            raise ValueError("nothing is drawn: expected a stroke of at least one point")
        lines = [np.asarray(stroke, float)[:, ::-1] for stroke in strokes if len(stroke)]
        corner = np.min([line.min(0) for line in lines], 0)
        extent = np.max([line.max(0) for line in lines], 0) - corner
        room = np.array([self.tall, self.widest]) - self.pen
        scale = min((room[i] / extent[i] for i in (0, 1) if extent[i] > 0), default=0.0)
        lines = [_thinned((line - corner) * scale) for line in lines]
        size = extent * scale
        start = (np.array([self.height, self.width]) - 1 - size) / 2
        ink = self._ink([line + start for line in lines])
        shift = np.array(self.centre) - _centre(ink)
        # Whatever the centre, all of the character stays in the picture.
        edge = self.pen / 2 - 0.5
        room = np.array([self.height, self.width]) - 1 - edge - size
        ink = self._ink(
            [line + np.clip(start + shift, np.minimum(edge, room), room) for line in lines]
        )
        return (ink > 0.5).astype(float) if self.binary else ink

    def _ink(self, lines: Sequence[NDArray]) -> NDArray[np.float64]:
        """Share of each pixel that the pen covers: by its distance from the nearest line."""
        first = np.concatenate([line[:-1] if len(line) > 1 else line for line in lines])
        last = np.concatenate([line[1:] if len(line) > 1 else line for line in lines])
        along = last - first
        pixels = np.moveaxis(np.indices((self.height, self.width)), 0, -1)[:, :, None] - first
        length = np.maximum((along**2).sum(-1), 1e-12)
        at = np.clip((pixels * along).sum(-1) / length, 0, 1)
        distance = np.sqrt(((pixels - at[..., None] * along) ** 2).sum(-1)).min(-1)
        return np.clip(self.pen / 2 + 0.5 - distance, 0, 1)


def _thickness(dark: NDArray[np.bool_]) -> float:
    """Mean thickness of strokes, pixels: twice the area over the edge, since they are long.

    A slanted edge has about 4/pi times as many pixel sides as it is long (Crofton's formula).
    """
    padded = np.pad(dark, ((0, 0), (1, 1), (1, 1)))
    sides = (padded[:, 1:] != padded[:, :-1]).sum() + (padded[:, :, 1:] != padded[:, :, :-1]).sum()
    return float(2 * dark.sum() / (sides * np.pi / 4))


def _centre(ink: NDArray) -> NDArray:
    """Row and column of the centre of mass."""
    return (
        np.array([ink.sum(1) @ np.arange(len(ink)), ink.sum(0) @ np.arange(len(ink[0]))])
        / ink.sum()
    )


def _thinned(line: NDArray) -> NDArray:
    """The line without points that lie less than _NEAR from the one before; its end stays."""
    kept = [line[0]]
    for point in line[1:]:
        if np.hypot(*(point - kept[-1])) >= _NEAR:
            kept.append(point)
    if len(line) > 1:
        kept.append(line[-1])
    return np.array(kept)
