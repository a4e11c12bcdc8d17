"""The sign of a series on its button: the colour, shape and dash that its marks have."""

from markupsafe import Markup

from bench.page.style import DASHES, SERIES, SHAPES, as_variables

_PATHS = {
    "circle": "M15 2a5 5 0 1 1 0 10a5 5 0 1 1 0-10z",
    "square": "M10 2h10v10h-10z",
    "triangle-up": "M15 1.5l6 10.5h-12z",
    "diamond": "M15 1l5 6l-5 6l-5-6z",
    "cross": "M13 1h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
    "triangle-down": "M15 12.5l6-10.5h-12z",
    "stroke": "M9 5.5h12v3h-12z",
    "wedge": "M15 1l3 12h-6z",
}


def symbol(number: int) -> Markup:
    """The sign of a series, by its place in the order."""
    colour = SERIES[number]
    dash = " ".join(map(str, DASHES[number])) if DASHES[number][1] else "none"
    return Markup(
        as_variables(
            f'<svg width="30" height="14" viewBox="0 0 30 14" aria-hidden="true">'
            f'<path d="M0 7h30" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
            f'<path d="{_PATHS[SHAPES[number]]}" fill="{colour}"/></svg>'
        )
    )
