"""Rank-aware pytest: one test session on all ranks of an MPI launch, which never hangs.

A conftest loads ``plugin``. ``README.md`` says what the other modules do. Nothing here knows what
is being tested, and all imports are relative, so the folder works in any project.
"""
