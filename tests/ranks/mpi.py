"""Import MPI with the settings that this layer needs, before anything else imports it."""

import os

import mpi4py

# The watchdog thread calls MPI while the main thread is stuck in it.
mpi4py.rc.thread_level = "multiple"
# shutdown.py calls Finalize itself: after the death of a rank it must not be called at all.
mpi4py.rc.finalize = False

from mpi4py import MPI  # noqa: E402

from .launchers import EXPECTED, worlds_of_one  # noqa: E402

__all__ = ["MPI", "fault_tolerant", "launch_problem"]


def fault_tolerant() -> bool:
    """Return whether ranks survive the death of another, and can leave a collective it never joins.

    Open MPI compiles this in, but only ``mpiexec --with-ft ulfm`` switches it on, by the variable
    read here; without it ``Revoke`` works on the calling rank alone. A world of one rank needs no
    launcher for it.
    """
    if "Open MPI" not in MPI.Get_library_version():
        return False
    switch = os.environ.get("OMPI_MCA_mpi_ft_enable")  # noqa: SIM112 (Open MPI's name)
    return MPI.COMM_WORLD.size == 1 or switch in {"1", "true"}


def launch_problem() -> str | None:
    """Say what is wrong with this launch; None if nothing is.

    A launcher that does not belong to the MPI library starts N worlds of one rank, and only warns.
    The environment variable ``LOCKSTEP_RANKS``, if set, is the number of ranks expected; if not,
    ``launchers`` knows the signs of a launcher.
    """
    asked = os.environ.get(EXPECTED)
    if asked is None:
        return worlds_of_one()
    if not asked.isdecimal() or int(asked) < 1:
        return f"LOCKSTEP_RANKS must be the number of ranks of the launch, not {asked!r}."
    size = MPI.COMM_WORLD.size
    if int(asked) == size:
        return None
    library = MPI.Get_library_version().split(",")[0].splitlines()[0]
    return (
        f"LOCKSTEP_RANKS asks for {asked} ranks, but MPI sees a world of {size}. Either the launch "
        f"has another number of ranks (mpiexec -n {asked}), or the launcher does not belong to the "
        f"MPI library in use, {library.strip()}: call the mpiexec that was installed with it."
    )
