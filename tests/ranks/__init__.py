"""Rank-aware pytest: one test session that runs on every rank of an MPI launch and never hangs.

``plugin`` holds the pytest hooks, and is what a conftest loads. Below it, one job each:

========== ==================================================================================
mpi        the settings that have to be made before MPI is imported; what the launch can do
waiting    waiting without using the processor
control    the one collective by which the ranks take every decision, and who is still alive
watchdog   the deadline of a phase: stacks, revocation, interruption
guard      a process beside the ranks that kills those which nothing else can stop
groups     who takes part in a test, and the private communicator for it
verdict    from one report per rank to the report that all ranks share
examples   Hypothesis: one verdict per example
ending     how a run ends: in order, or after a rank has died
========== ==================================================================================

Nothing here knows what is being tested.
"""
