"""Colours: readable in the light and in the dark, and told apart by readers who see fewer."""

from itertools import combinations

import numpy as np
import pytest

from bench.page.style import DARK, LIGHT, SERIES, as_variables, css

pytestmark = pytest.mark.workers(1)

PALETTES = {"light": LIGHT, "dark": DARK}

SEEN = {
    "all cones": np.eye(3),
    "no long cones": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no middle cones": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no short cones": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
"""Linear sRGB -> what readers see. Machado et al., "A physiologically-based model for simulation of
color vision deficiency" (2009), table of severity 1.0."""

XYZ = [
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
]


def linear(colour):
    """sRGB as light: IEC 61966-2-1."""
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """Contrast of two colours: WCAG 2.1, "contrast ratio"."""
    low, high = sorted(linear(each) @ [0.2126, 0.7152, 0.0722] for each in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(light):
    """CIELAB 1976 under D65."""
    ratio = np.array(XYZ) @ np.clip(light, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def series(palette):
    return [colour for name, colour in palette.items() if name.startswith("series-")]


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_text_can_be_read(palette):
    for text in ("ink", "muted", "link", "good", "bad", "doubt"):
        for ground in ("paper", "panel"):
            assert contrast(palette[text], palette[ground]) >= 4.5, (text, ground)
    on = {"on-0": ["series-0"], "on-1": ["series-1"]}
    on |= {"on-little": [f"ramp-{i}" for i in range(4)], "on-much": ["ramp-4", "ramp-5"]}
    for text, grounds in on.items():
        for ground in grounds:
            assert contrast(palette[text], palette[ground]) >= 4.3, (text, ground)


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_marks_can_be_seen(palette):
    assert min(contrast(each, palette["paper"]) for each in series(palette)) >= 3


@pytest.mark.parametrize("seen", SEEN.values(), ids=SEEN)
@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_series_are_told_apart_by_colour(palette, seen):
    colours = [lab(np.array(seen) @ linear(each)) for each in series(palette)]
    assert min(np.linalg.norm(a - b) for a, b in combinations(colours, 2)) >= 20


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_each_step_of_the_ramp_has_more_contrast(palette):
    steps = [contrast(palette[f"ramp-{i}"], palette["paper"]) for i in range(6)]
    assert np.all(np.diff(steps) > 0.1)


def test_every_colour_of_a_chart_follows_the_scheme():
    assert LIGHT.keys() == DARK.keys()
    assert len(set(LIGHT.values())) == len(LIGHT)
    text = as_variables(f'fill="{SERIES[1]}" stroke="{LIGHT["ink"]}" id="{SERIES[1]}0"')
    assert text == f'fill="var(--series-1)" stroke="var(--ink)" id="{SERIES[1]}0"'
    sheet = css()
    used = {name for name in LIGHT if f"var(--{name})" in sheet}
    assert {"paper", "ink", "muted", "line", "link"} <= used
