"""One topic a file. Each has a TITLE and `figures(records)`, which draws what is on disk.

A topic that is added here is a part of the page; nothing else has to know it.
"""

from types import ModuleType

from bench.page.figures import (
    batch_size,
    communication,
    core_use,
    devices,
    gate,
    gpt2,
    languages,
    peers,
    pipelines,
    projects,
    proof,
    scaling,
    sizes,
    speedup,
    tasks,
    training,
    where_time_goes,
    which_strategy,
)

TOPICS: list[ModuleType] = [
    proof,
    speedup,
    where_time_goes,
    sizes,
    scaling,
    which_strategy,
    pipelines,
    communication,
    training,
    core_use,
    tasks,
    batch_size,
    gpt2,
    peers,
    languages,
    devices,
    projects,
    gate,
]
"""In the order of the page."""
