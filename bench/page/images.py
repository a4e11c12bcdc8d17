"""Pictures of figures as SVG and PNG files, made without a browser."""

from collections.abc import Sequence
from dataclasses import dataclass

import vl_convert

from bench.page import specs
from bench.page.figure import Figure

SCALE = 2
"""Pixels of a PNG file for each pixel of its chart."""


class UnknownFigureError(ValueError):
    """No figure has the name that was asked for; the message lists those that there are."""


@dataclass(frozen=True)
class Picture:
    """One tab of a figure; `name` is that of its files, without their ending."""

    name: str
    tab: str
    svg: str

    def png(self) -> bytes:
        return vl_convert.svg_to_png(self.svg, scale=SCALE)


def named(figures: Sequence[Figure], name: str) -> Picture:
    """Draw the picture with this name, which is that of its figure or of one tab of it.

    Raises:
        UnknownFigureError: none has the name.
    """
    known = []
    for figure in figures:
        for tab, (own, spec) in zip(figure.charts, specs.for_files(figure), strict=True):
            if own == name:
                return Picture(name, tab, vl_convert.vegalite_to_svg(spec))
            known.append(own)
    raise UnknownFigureError(f"no figure {name!r}: expected one of {', '.join(known)}")


def pictures(figure: Figure) -> list[Picture]:
    """Draw every tab of a figure, in the colours of the light."""
    return [
        Picture(name, tab, vl_convert.vegalite_to_svg(spec))
        for tab, (name, spec) in zip(figure.charts, specs.for_files(figure), strict=True)
    ]
