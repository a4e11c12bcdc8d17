"""Notice a launcher that started several processes of which MPI knows nothing.

A launcher that does not belong to the MPI library in use, or was told not to care for MPI, starts N
processes, and each is a world of one rank: all train alone, and nobody says so. What gives it away
are the variables that launchers set for each process. `tests/ranks` needs the same rule and may
import nothing from here, so its file of this name is a link to this one.
"""

import os
from collections.abc import Mapping
from typing import Any

from mpi4py import MPI

EXPECTED = "LOCKSTEP_RANKS"
"""The variable by which the user says how many ranks there are; 1 means that each is alone."""

LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE"),
    "Open MPI's mpiexec": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "MPICH's mpiexec, or one like it": ("PMI_RANK", "PMI_SIZE"),
    # SLURM_NTASKS belongs to the allocation: in it, plain programs are legitimate.
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    "flux run": ("FLUX_TASK_RANK", "FLUX_JOB_SIZE"),
    # These tell the rank only.
    "PALS' mpiexec": ("PALS_RANKID", ""),
    "a launcher that uses PMIx": ("PMIX_RANK", ""),
}
"""Launchers with the variables that they set for each process: its rank, and how many there are."""

_OF_ONE_PROCESS = ("PMIX_", "PMI_", "OMPI_COMM_WORLD", "OMPI_MCA_ess", "OMPI_UNIVERSE")
"""How variables begin by which MPI libraries find out which rank a process is."""


def check_launch(comm: Any) -> None:
    """Refuse to train alone on `comm` in one of several processes that a launcher started.

    COMM_SELF is a rank alone on purpose, and a TorchComm does not depend on MPI's world. What was
    made of COMM_SELF is refused: nothing tells it from what was made of such a world.

    Raises:
        RuntimeError: see `worlds_of_one`.
    """
    if isinstance(comm, MPI.Comm) and comm != MPI.COMM_SELF and (problem := worlds_of_one()):
        raise RuntimeError(
            f"{problem} To train alone, MPI.COMM_SELF itself will do, too. Ranks of torchrun can "
            "train together: on TorchComm.world() in place of MPI.COMM_WORLD."
        )


def worlds_of_one() -> str | None:
    """Say which launcher started several processes, each of which MPI sees as a world of one.

    None if MPI's world has several ranks, or one as the user expects, or if nothing shows such a
    launcher.
    """
    if MPI.COMM_WORLD.size > 1 or os.environ.get(EXPECTED) == "1":
        return None
    launcher = launcher_in(os.environ)
    return launcher and (
        f"{launcher} has started several processes, but MPI sees a world of 1 in each, so each "
        "would work alone. Start the ranks with the mpiexec that was installed with the MPI "
        f"library, or set {EXPECTED}=1 if each is meant to be alone."
    )


def launcher_in(environment: Mapping[str, str]) -> str | None:
    """Name the launcher that made this process one of several, with its variables; None if none."""
    for launcher, names in LAUNCHERS.items():
        rank, size = (environment.get(name, "") for name in names)
        if not rank.isdecimal():
            continue
        # A rank above 0 shows that there are several, where the launcher does not say how many.
        if int(rank) > 0 if not names[1] else size.isdecimal() and int(size) > 1:
            signs = [f"{name}={environment[name]}" for name in names if name in environment]
            return f"{launcher} ({', '.join(signs)})"
    return None


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a process that is a world of its own, whoever starts it."""
    of_launchers = {name for names in LAUNCHERS.values() for name in names} | {EXPECTED}
    return {
        name: value
        for name, value in environment.items()
        if name not in of_launchers and not name.startswith(_OF_ONE_PROCESS)
    }
