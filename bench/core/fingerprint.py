"""The fingerprint of a machine and its libraries: two runs are compared only if it is equal."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Mapping
from functools import cache
from importlib import metadata
from typing import Any

import cpuinfo
import numpy as np
import psutil
import scipy.linalg  # noqa: F401 - loads scipy's BLAS, so that every program lists the same ones
import threadpoolctl

from bench.core.cores import allowed


def fingerprint(ranks: int, devices: Collection[str]) -> dict[str, Any]:
    """Describe this machine and its libraries in plain JSON values.

    Clock frequencies are left out: they change from one look to the next. Memory is in whole GiB,
    since kernels keep a varying few MiB for themselves.
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
    }


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Name each entry that differs, in a sentence; an empty list means comparable."""
    keys = [*before, *(key for key in after if key not in before)]
    return [
        f"{key.replace('_', ' ')}: {before.get(key, 'not recorded')} before, "
        f"{after.get(key, 'not recorded')} now"
        for key in keys
        if key not in before or key not in after or before[key] != after[key]
    ]


@cache
def _cpu() -> str:
    return cpuinfo.get_cpu_info().get("brand_raw") or platform.processor()


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
