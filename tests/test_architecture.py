"""Imports go down only, as pyproject.toml says; import-linter reads the whole tree."""

import pytest
from importlinter.cli import lint_imports

pytestmark = pytest.mark.workers(1)


def test_imports_go_down_only(capsys, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    assert lint_imports(no_cache=True) == 0, capsys.readouterr().out
