"""One demo for all tests that do without one of their own."""

import pytest

from tests.bench.demo.serving import serving


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory):
    with serving(tmp_path_factory.mktemp("demo"), "--patience", "5") as served:
        yield served
