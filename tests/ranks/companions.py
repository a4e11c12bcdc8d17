"""Other plugins that have processes or files of their own: pytest-xdist and pytest-cov."""

import os
import warnings
from typing import Any

import pytest


def refuse_workers(config: pytest.Config) -> None:
    """Refuse xdist's workers under a launcher: no rank would run the tests, and all would wait.

    Raises:
        pytest.UsageError: workers were asked for.
    """
    if config.getoption("dist", "no") != "no" or config.getoption("tx", None):
        raise pytest.UsageError(
            "pytest-xdist (-n, --dist, --tx) does not work under mpiexec, where the ranks run the "
            "tests together: leave it out, or add -n 0 if "
            "pytest's configuration asks for it; --share runs tests side by side."
        )


def separate_coverage(config: pytest.Config, rank: int) -> None:
    """Give this rank a data file of its own, ``.coverage.rankN``, if pytest-cov measures.

    The ranks would overwrite and combine each other's. What was measured up to now is kept. Rank 0
    reports what it has run itself.
    """
    plugin: Any = config.pluginmanager.get_plugin("_cov")
    controller = getattr(plugin, "cov_controller", None)
    if controller is None or controller.cov is None:
        return
    before = controller.cov
    before.stop()
    os.environ["COVERAGE_FILE"] = f"{before.config.data_file}.rank{rank}"
    controller.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing has been measured yet
        controller.cov.get_data().update(before.get_data())
    before.erase()
    if rank > 0:
        plugin.options.cov_report, plugin.options.cov_fail_under = {}, None
