"""The fingerprint of a machine and its libraries: two runs are compared only if it is equal.

Another kernel is said, and prevents no comparison: kernels are updated every few weeks, and what an
update changes is there to be found. A key that one of two runs does not know, because it was saved
by another version or its system does not tell, is no difference either, and is said.
"""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Collection, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import cpuinfo
import numpy as np
import psutil
import scipy.linalg  # noqa: F401 - loads scipy's BLAS, so that every program lists the same ones
import threadpoolctl

from bench.core.cores import allowed

LAUNCHER = "LOCKSTEP_MPIEXEC"
"""Environment variable: the command line that starts ranks, by default `mpiexec`."""

CORES = Path("/sys/devices/system/cpu")
"""Where Linux tells about its cores."""

EVER_SINCE = frozenset(
    ("cpu", "architecture", "cores", "affinity", "memory_gib", "world_size", "mpi", "blas")
) | {"python", "numpy", "torch", "devices"}
"""The keys that every version has recorded: one of them is never unknown."""

ONLY_SAID = frozenset({"kernel"})
"""Keys that may differ; a comparison says so."""

MPI_SETTINGS = (
    *("OMPI_MCA_accelerator", "OMPI_MCA_btl", "OMPI_MCA_coll", "OMPI_MCA_mpi_", "OMPI_MCA_mtl"),
    *("OMPI_MCA_opal_", "OMPI_MCA_osc", "OMPI_MCA_pml", "OMPI_MCA_rcache", "OMPI_MCA_smsc"),
    *("PRTE_MCA_hwloc_", "PRTE_MCA_rmaps_", "UCX_"),
    *("MPICH_", "MPIR_CVAR_", "I_MPI_", "FI_"),
)
"""Beginnings of the environment variables that choose transports, collectives and binding: of Open
MPI, its launcher, UCX, MPICH, Intel MPI and libfabric."""

SAYS_ONLY = ("VERBOSE", "DEBUG", "LOG_LEVEL", "LOG_FILE", "STATS")
"""Parts of the names of variables that change what an MPI prints, and not how it works."""

SET_BY_LAUNCHER = frozenset({"OMPI_MCA_mpi_ft_enable"})
"""Variables that ranks have from an option of their launcher, which is in the list itself."""


def fingerprint(ranks: int, devices: Collection[str]) -> dict[str, Any]:
    """Describe this machine and its libraries in plain JSON values.

    Clock frequencies are left out: they change from one look to the next. Memory is in whole GiB,
    since kernels keep a varying few MiB for themselves. None stands for what the system does not
    tell; for torch, that it is not installed.
    """
    return {
        "cpu": _cpu(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "affinity": sorted(allowed()),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "world_size": ranks,
        "mpi": _mpi(),
        "blas": _blas(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": _version("torch"),
        "devices": sorted(_device(device) for device in devices),
        "kernel": platform.release(),
        "smt": _smt(),
        "governor": _governor(),
        "hypervisor": _hypervisor(),
        "mpi_settings": _mpi_settings(ranks),
    }


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Name each entry that prevents a comparison, in a sentence; an empty list means comparable."""
    return [
        _sentence(key, before, after)
        for key in _keys(before, after)
        if key not in ONLY_SAID
        and not _unknown(key, before, after)
        and _differs(key, before, after)
    ]


def remarks(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Name each entry that prevents no comparison and may explain what one finds, in a sentence.

    That is another kernel, and what one of the two does not know.
    """
    return [
        _sentence(key, before, after)
        for key in _keys(before, after)
        if _differs(key, before, after) and (key in ONLY_SAID or _unknown(key, before, after))
    ]


def _keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [*before, *(key for key in after if key not in before)]


def _differs(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    return key not in before or key not in after or before[key] != after[key]


def _unknown(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Tell whether one of two lacks a key of later versions, or its system did not tell."""
    return key not in EVER_SINCE and (before.get(key) is None or after.get(key) is None)


def _sentence(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    def said(machine: Mapping[str, Any]) -> Any:
        value = machine.get(key, "not recorded")
        return "not known" if value is None and key not in EVER_SINCE else value

    return f"{key.replace('_', ' ')}: {said(before)} before, {said(after)} now"


@cache
def _cpu_info() -> dict[str, Any]:
    """Ask once: it starts several programs."""
    return dict(cpuinfo.get_cpu_info())


def _cpu() -> str:
    return _cpu_info().get("brand_raw") or platform.processor()


def _smt() -> str | None:
    """Return whether cores run several threads at once; None if the system does not tell."""
    cores = psutil.cpu_count(logical=False)
    if not cores:
        return None
    return "on" if (psutil.cpu_count() or cores) > cores else "off"


def _governor() -> list[str] | None:
    """Return the frequency governors of the allowed cores; None if the system does not tell."""
    found = set()
    for core in allowed():
        try:
            found.add((CORES / f"cpu{core}" / "cpufreq" / "scaling_governor").read_text().strip())
        except OSError:
            return None
    return sorted(found)


def _hypervisor() -> str | None:
    """Return whether this is a virtual machine; None where processors have no flag for it."""
    info = _cpu_info()
    if not info.get("flags") or not info.get("arch", "").startswith("X86"):
        return None
    return "yes" if "hypervisor" in info["flags"] else "no"


def _mpi_settings(ranks: int) -> list[str]:
    """List the launcher with its options, and the variables of MPI_SETTINGS.

    What the gate itself sets for launches with more ranks than cores is left out: a rank of such a
    launch has it, and the program that starts the launch has not.
    """
    crowded = {"OMPI_MCA_mpi_yield_when_idle"} if ranks > len(allowed()) else set()
    set_by_us = SET_BY_LAUNCHER | crowded
    settings = [
        _printable(f"{name}={value}")
        for name, value in os.environ.items()
        if name.startswith(MPI_SETTINGS)
        and name not in set_by_us
        and not any(part in name.upper() for part in SAYS_ONLY)
    ]
    return [_launcher(), *sorted(settings)]


def _launcher() -> str:
    """Return the command that starts ranks, without the folder it is in."""
    given = os.environ.get(LAUNCHER) or "mpiexec"
    try:
        program, *options = shlex.split(given)
    except ValueError:  # `launcher.start` refuses it; here it is only a text
        return _printable(given)
    return _printable(shlex.join([Path(program).name, *options]))


def _printable(text: str) -> str:
    """Return a text that can be shown and written anywhere."""
    return text if text.isprintable() else ascii(text)


def _mpi() -> str:
    import mpi4py

    mpi4py.rc.initialize = False  # the program that starts ranks must not be one itself
    from mpi4py import MPI

    return MPI.Get_library_version().split("\0")[0].splitlines()[0].split(", package")[0].strip()


def _blas() -> list[str]:
    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    return sorted(
        f"{pool['internal_api']} {pool['version']} ({pool.get('architecture', 'unknown')}), "
        f"{pool['num_threads']} thread(s)"
        for pool in pools
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device(device: str) -> str:
    """Name a device, and the accelerator that it is; a baseline may come from another machine."""
    if device == "cpu":
        return device
    if _version("torch") is None:
        return f"{device} (not here)"
    import torch  # only where a cell runs on an accelerator: the import takes seconds

    from nn.torch.model import devices

    there = devices()
    if device not in {*there, *(name.partition(":")[0] for name in there)}:
        return f"{device} (not here)"
    return f"{device} ({torch.cuda.get_device_name(device)})" if "cuda" in device else device
