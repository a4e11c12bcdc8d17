"""What a machine's messages cost, from a fit or from a TOML file.

cores = 8
latency = 5e-6          # seconds a message
seconds_per_byte = 1e-9
combine = 0.2e-9        # seconds to add a byte to another
memory = 0.1e-9         # seconds a byte of shared memory
spread = 0.05           # of the logarithm of a rank's steps
"""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """Cores, and seconds a message, a byte sent, a byte combined and a byte of shared memory."""

    cores: int
    latency: float
    seconds_per_byte: float
    combine: float
    memory: float
    spread: float


def load(path: Path, base: Machine) -> Machine:
    """Read a machine file; what it does not name is as on the fitted machine.

    Raises:
        ValueError: it names something else, or a value is no number of at least 0.
    """
    values = tomllib.loads(path.read_text())
    known = {field.name: getattr(base, field.name) for field in fields(Machine)}
    if unknown := values.keys() - known.keys():
        raise ValueError(f"{path}: {', '.join(sorted(unknown))}: expected {', '.join(known)}")
    for name, value in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e9:
            raise ValueError(f"{path}: {name} = {value!r}: expected a number of at least 0")
    if not isinstance(values.get("cores", 1), int) or values.get("cores", 1) < 1:
        raise ValueError(f"{path}: cores = {values['cores']!r}: expected a whole number from 1")
    return Machine(**(known | values))
