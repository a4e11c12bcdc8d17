"""The page about records names every kind and every key."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from nn.plain_json import INLINE
from tests.bench.report.test_kinds import all_kinds

pytestmark = pytest.mark.workers(1)

PAGE = Path(__file__).parents[3] / "bench" / "report" / "README.md"


def test_the_page_names_every_kind_and_key():
    rows = re.findall(r"^\| `([\w-]+)` \|[^|]*\|([^|]*)\|", PAGE.read_text(), re.MULTILINE)
    shown = {
        kind: set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]*)`", keys))))
        for kind, keys in rows
    }
    keys = {
        kind.kind: {field.name for field in fields(kind) if field.metadata != INLINE}
        for kind in all_kinds()
    }
    assert shown.keys() == keys.keys()
    for kind, expected in keys.items():
        assert expected <= shown[kind], kind
