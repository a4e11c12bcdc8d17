"""One demo for all tests that do without one of their own."""

import pytest

from tests.bench.demo.serving import serving


@pytest.fixture(scope="package")
def one_demo(tmp_path_factory: pytest.TempPathFactory):
    with serving(tmp_path_factory.mktemp("demo"), "--patience", "5") as served:
        yield served


@pytest.fixture
def served(one_demo):
    """The demo, in which no race is left under way."""
    yield one_demo
    if race := one_demo.race():
        one_demo.post("stop", {"race": race["number"]})
