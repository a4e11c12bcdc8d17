"""`--device`: the devices that tests and benchmarks with an argument `device` compute on.

By default each runs on every kind of device that torch knows, and is skipped with the reason if
torch finds none of that kind; one that is marked `devices("cpu")` runs on the CPU only. The devices
of `--device` replace these, and must be there.
"""

import pytest

KINDS = ("cpu", "cuda", "mps")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("lockstep").addoption(
        "--device", action="append", metavar="NAME", help="cpu, cuda, cuda:1, mps; can be repeated"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "devices(name, ...): devices to run on without --device")
    missing = [name for name in config.option.device or () if not _is_there(name)]
    if missing:
        raise pytest.UsageError(
            f"--device {' '.join(missing)}: torch finds {', '.join(_devices())} here"
        )


@pytest.hookimpl(trylast=True)  # so that the device comes last in a test's name
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("devices")
    usual = [_or_skipped(name) for name in (mark.args if mark else KINDS)]
    metafunc.parametrize("device", metafunc.config.option.device or usual)


def _or_skipped(name: str):
    if _is_there(name):
        return name
    reason = f"torch finds no {name} here, only {', '.join(_devices())}"
    return pytest.param(name, marks=pytest.mark.skip(reason=reason))


def _is_there(name: str) -> bool:
    if name == "cpu":
        return True  # without importing torch
    return name in _devices() or name in {there.partition(":")[0] for there in _devices()}


def _devices() -> list[str]:
    from nn.torch.model import devices  # torch takes seconds to import

    return devices()
