"""Pictures of figures as SVG and PNG files, made without a browser."""

from dataclasses import dataclass

import vl_convert

from bench.page import specs
from bench.page.figure import Figure

SCALE = 2
"""Pixels of a PNG file for each pixel of its chart."""


@dataclass(frozen=True)
class Picture:
    """One tab of a figure; `name` is that of its files, without their ending."""

    name: str
    tab: str
    svg: str

    def png(self) -> bytes:
        return vl_convert.svg_to_png(self.svg, scale=SCALE)


def pictures(figure: Figure) -> list[Picture]:
    """Draw every tab of a figure, in the colours of the light."""
    return [
        Picture(name, tab, vl_convert.vegalite_to_svg(spec))
        for tab, (name, spec) in zip(figure.charts, specs.for_files(figure), strict=True)
    ]
