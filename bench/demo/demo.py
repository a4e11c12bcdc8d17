"""The demo: one race at a time, and everybody who watches it."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.core.cores import available
from bench.demo.nets import NETS, why_not
from bench.demo.race import TURN, Race
from bench.demo.settings import (
    FEWEST,
    LARGEST_BATCH,
    LARGEST_RATE,
    MOST,
    MOST_EPOCHS,
    RaceSettings,
    most_workers,
    strategies,
)
from bench.demo.sources import Source
from bench.demo.taught import COPIES, Lesson
from bench.report.demo_records import Slice
from bench.report.run_file import header
from nn.plain_json import plain
from strategies.records import Record, RunFile

MOST_BROWSERS = 50
MOST_LESSONS = 200
"""Pictures that can be added to a data set."""

_BEHIND = 500  # messages that a browser may be behind, until it has to begin anew
_BEAT = 10.0  # seconds without news after which a browser is told that there are none


class WrongState(Exception):
    """What was asked for cannot be done now; the text says why."""


class Demo:
    """All that the server knows.

    Args:
        sources: the data sets that can be chosen.
        folder: of the run: the record, and what ranks say.
        sockets: a folder that is nobody else's, for the sockets of the ranks.
        idle: seconds without a browser after which a race is ended.
        patience: seconds without an answer after which a lane is given up.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        folder: Path,
        sockets: Path,
        idle: float,
        patience: float,
    ):
        self.sources, self.folder, self.idle = sources, folder, idle
        self.race: Race | None = None
        self._sockets, self._patience = sockets, patience
        self._races = 0
        self._task: asyncio.Task[None] | None = None
        self._browsers: set[asyncio.Queue[str | None]] = set()
        self._left = time.monotonic()
        self._lessons: dict[str, list[Lesson]] = {name: [] for name in sources}
        self._file = RunFile(folder / "run.jsonl", lambda: header("demo", 1))

    def choices(self) -> dict[str, Any]:
        """What a race can be made of, and the limits, for the page's controls."""
        return {
            "data": [
                {
                    "name": source.name,
                    "title": source.title,
                    "missing": source.missing,
                    "written": source.written,
                    "nets": {net: why_not(net, source.shape) for net in NETS},
                }
                for source in self.sources.values()
            ],
            "nets": {name: {"title": net.title, "rate": net.rate} for name, net in NETS.items()},
            "strategies": strategies(),
            "cores": available(),
            "workers": most_workers(),
            "lanes": [FEWEST, MOST],
            "epochs": MOST_EPOCHS,
            "batch": LARGEST_BATCH,
            "rate": LARGEST_RATE,
            "turn": TURN,
            "idle": self.idle,
            "copies": COPIES,
            "record": str(self._file.path),
        }

    def start(self, settings: RaceSettings) -> Race:
        """Begin a race.

        Raises:
            WrongState: another one is under way.
        """
        if self.race and not self.race.is_over:
            raise WrongState("a race is under way: stop it first")
        self._races += 1
        self.race = Race(
            *(self._races, settings, self.sources[settings.data], self.folder, self._sockets),
            *(self.tell, self._record, self._lessons[settings.data], self._patience),
        )
        self._task = asyncio.create_task(self.race.run())
        self.tell("race", self.race.shown())
        return self.race

    async def stop(self) -> None:
        """End the race, if there is one, and every process of it."""
        if self._task and not self._task.done():
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def teach(self, race: Race, picture: NDArray[np.float32], label: int) -> Lesson:
        """Add a picture to the data of this race and of later ones.

        Raises:
            WrongState: too many have been added.
        """
        lessons = self._lessons[race.settings.data]
        if len(lessons) >= MOST_LESSONS:
            raise WrongState(f"{MOST_LESSONS} pictures have been added: no more are taken")
        lesson = race.teach(picture, label)
        lessons.append(lesson)
        return lesson

    def tell(self, event: str, message: Any) -> None:
        """Tell every browser."""
        text = _event(event, message)
        for browser in list(self._browsers):
            try:
                browser.put_nowait(text)
            except asyncio.QueueFull:  # it connects again, and is told all at once
                self._leave(browser)

    async def watch(self) -> AsyncIterator[str]:
        """Yield what was, and then what happens, as server-sent events."""
        browser: asyncio.Queue[str | None] = asyncio.Queue(_BEHIND)
        self._browsers.add(browser)
        try:
            yield _event("race", self.race.shown() if self.race else None)
            while browser in self._browsers:
                try:
                    text = await asyncio.wait_for(browser.get(), _BEAT)
                except TimeoutError:
                    text = ": nothing new\n\n"
                if text is None:
                    return
                yield text
        finally:
            self._leave(browser)

    @property
    def is_full(self) -> bool:
        return len(self._browsers) >= MOST_BROWSERS

    async def end_when_idle(self) -> None:
        """End the race whenever nobody has watched for `idle` seconds."""
        while True:
            await asyncio.sleep(min(1.0, self.idle / 4))
            alone = not self._browsers and time.monotonic() - self._left > self.idle
            if alone and self.race and not self.race.is_over:
                self.race.reason = f"nobody watched for {self.idle:g} s"
                await self.stop()

    def let_go(self) -> None:
        """End the connections to all browsers."""
        for browser in list(self._browsers):
            self._leave(browser)

    def _leave(self, browser: asyncio.Queue[str | None]) -> None:
        self._browsers.discard(browser)
        self._left = time.monotonic()
        with contextlib.suppress(asyncio.QueueFull):
            browser.put_nowait(None)

    def _record(self, record: Record) -> None:
        self._file.append(record, sync=not isinstance(record, Slice))


def _event(event: str, message: Any) -> str:
    return f"event: {event}\ndata: {json.dumps(plain(message), allow_nan=False)}\n\n"
