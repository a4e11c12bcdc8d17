"""`--device`: where tests and benchmarks that take a `device` have torch compute.

By default they run on each kind of device, and are skipped with the reason where torch finds none.
A device that is asked for has to be there.
"""

import pytest

KINDS = ("cpu", "cuda", "mps")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("lockstep").addoption(
        "--device", action="append", metavar="NAME", help="cpu, cuda, cuda:1, mps; can be repeated"
    )


def pytest_configure(config: pytest.Config) -> None:
    missing = [name for name in config.option.device or () if not _is_there(name)]
    if missing:
        raise pytest.UsageError(
            f"--device {' '.join(missing)}: torch finds {', '.join(_devices())} here"
        )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marks = metafunc.definition.iter_markers("parametrize")
    if "device" not in metafunc.fixturenames or any(mark.args[0] == "device" for mark in marks):
        return  # or the test has a list of its own
    asked = metafunc.config.option.device
    metafunc.parametrize("device", asked or [_or_skipped(name) for name in KINDS])


def _or_skipped(name: str):
    if _is_there(name):
        return name
    reason = f"torch finds no {name} here, only {', '.join(_devices())}"
    return pytest.param(name, marks=pytest.mark.skip(reason=reason))


def _is_there(name: str) -> bool:
    return name in _devices() or name in {there.partition(":")[0] for there in _devices()}


def _devices() -> list[str]:
    from nn.torch_model import devices  # torch takes seconds to import: only for who needs it

    return devices()
