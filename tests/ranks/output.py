"""Keep ranks other than 0 from printing and saving."""

import os
from pathlib import Path

import pytest

# Options of pytest and pytest-benchmark that write files or compare with saved ones.
_SAVING = {
    "xmlpath": None,
    "benchmark_save": None,
    "benchmark_autosave": False,
    "benchmark_save_data": False,
    "benchmark_json": None,
    "benchmark_compare": None,
    "benchmark_compare_fail": None,
    "benchmark_histogram": None,
    "benchmark_csv": None,
}


def clear_saving_options(config: pytest.Config) -> None:
    """Switch off the options that save. Call it before the plugins that save read them."""
    for name, nothing in _SAVING.items():
        if hasattr(config.option, name):
            # pytest-benchmark's JSON option is a file that argparse has opened already.
            if hasattr(value := getattr(config.option, name), "close"):
                value.close()
            setattr(config.option, name, nothing)


def silence_terminal(config: pytest.Config) -> None:
    """Report to the null device. Other plugins ask for a reporter, so there has to be one."""
    manager = config.pluginmanager
    reporter = manager.get_plugin("terminalreporter")
    manager.unregister(reporter)
    manager.register(
        pytest.TerminalReporter(config, Path(os.devnull).open("w")),  # noqa: SIM115
        "terminalreporter",
    )


def stop_caching(config: pytest.Config) -> None:
    """Keep this rank from writing pytest's cache of failed tests."""
    for name in ("lfplugin", "nfplugin", "stepwiseplugin"):
        if plugin := config.pluginmanager.get_plugin(name):
            config.pluginmanager.unregister(plugin)
