"""One topic a file. Each has a TITLE and `figures(records)`, which draws what is on disk.

A topic that is added here is a part of the page; nothing else has to know it.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TypeAlias

from bench.page.figure import Figure, Missing
from bench.page.figures import pipelines, speedup, training, where_time_goes
from bench.page.records import Records

Drawn: TypeAlias = Figure | Missing

TOPICS: list[ModuleType] = [speedup, where_time_goes, pipelines, training]
"""In the order of the page."""

Draw = Callable[[Records], Sequence[Drawn]]
