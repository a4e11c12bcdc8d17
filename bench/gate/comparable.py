"""Choose the saved baselines that are one history: of one machine, measured in one way."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from bench.core.fingerprint import differences, fingerprint, remarks
from bench.gate.baselines import Baseline, BaselineError, read
from bench.gate.launches import devices
from bench.gate.named_paths import training_options
from bench.gate.storage import SavedFile, saved_files

Since: TypeAlias = int | datetime
"""The number of the first baseline to look at, or the date from which on to look."""


@dataclass(frozen=True)
class Chosen:
    """The baselines of one history, and what was left out.

    Attributes:
        baselines: in order of time.
        left_out: the reason for each baseline that is not among them.
        unlike: how many of these are of another machine, or were measured in another way.
        remarks: differences that left no baseline out.
    """

    baselines: Sequence[Baseline]
    left_out: Sequence[str]
    unlike: int
    remarks: Sequence[str]


def since(text: str) -> Since:
    """Read an argument that is the number of a baseline, or a date such as 2026-03-31."""
    if text.isdecimal() and len(text) < len("20260331"):
        return int(text)
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(
            f"expected the number of a baseline, or a date such as 2026-03-31, not {text!r:.60}"
        ) from None


def choose(storage: Path, ranks: int | None = None, start: Since | None = None) -> Chosen:
    """Choose the baselines that are comparable with the newest of this machine.

    Args:
        storage: the folder of baselines.
        ranks: of the launches; None is as many as the newest baseline of this machine has.
        start: leave out what is older.

    Raises:
        BaselineError: there is no file that can be read.
    """
    found: list[tuple[SavedFile, Baseline]] = []
    left_out: list[str] = []
    for file in saved_files(storage):
        try:
            found.append((file, read(file.path)))
        except BaselineError as error:
            left_out.append(str(error))
    if not found:
        why = "".join(f"\n- {reason}" for reason in left_out)
        raise BaselineError(
            f"no baseline in {storage}; save one with: nox -s bench_mpi -- --save NAME{why}"
        )
    found.sort(key=lambda each: (each[1].saved, each[0].number))
    young = [each for each in found if start is None or not _older(*each, start)]
    left_out += ["older than --since"] * (len(found) - len(young))

    def unlike(baseline: Baseline, size: int) -> list[str]:
        return differences(baseline.fingerprint, fingerprint(size, devices(baseline.launches)))

    own, strange = _divided(
        [baseline for _, baseline in young],
        lambda baseline: unlike(baseline, ranks or baseline.fingerprint["world_size"]),
    )
    if not own:
        return Chosen([], left_out + strange, len(strange), [])
    newest = own[-1]
    size, options = newest.fingerprint["world_size"], training_options(newest.arguments)
    alike, others = _divided(
        own,
        lambda baseline: unlike(baseline, size) + _other_options(baseline, options),
    )
    here = fingerprint(size, devices(newest.launches))
    said = Counter(each for one in alike for each in remarks(one.fingerprint, here))
    return Chosen(
        alike,
        left_out + strange + others,
        len(strange) + len(others),
        [f"{each} ({_baselines(number)}, compared all the same)" for each, number in said.items()],
    )


def grouped(reasons: Iterable[str]) -> list[str]:
    """Say how many baselines were left out for each reason."""
    return [f"{_baselines(n)} left out: {why}" for why, n in Counter(reasons).items()]


def _divided(
    baselines: Sequence[Baseline], why_not: Callable[[Baseline], list[str]]
) -> tuple[list[Baseline], list[str]]:
    """Return the baselines with no reason to leave them out, and the reasons for the others."""
    reasons = [(baseline, "; ".join(why_not(baseline))) for baseline in baselines]
    return [one for one, why in reasons if not why], [why for _, why in reasons if why]


def _older(file: SavedFile, baseline: Baseline, start: Since) -> bool:
    return file.number < start if isinstance(start, int) else baseline.saved < start


def _other_options(baseline: Baseline, options: list[str]) -> list[str]:
    own = training_options(baseline.arguments)
    if own == options:
        return []
    said = [" ".join(each) or "none" for each in (own, options)]
    return [f"options of pytest: {said[0]} before, {said[1]} now"]


def _baselines(number: int) -> str:
    return f"{number} baseline{'' if number == 1 else 's'}"
