"""The web application: a page, what happens as server-sent events, and posts that act."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from bench.demo.demo import Demo, WrongState
from bench.demo.guard import Refusal
from bench.demo.race import Race
from bench.demo.reading import Picture
from bench.demo.settings import checked, race_settings

PAGE = Path(__file__).parent / "page"

MOST_STROKES, MOST_POINTS = 100, 4000
"""Of a drawing."""


class Unknown(LookupError):
    """There is no such race."""


@dataclass(frozen=True)
class OfRace:
    """A post that is about a race.

    Attributes:
        race: its number.
    """

    race: int


@dataclass(frozen=True)
class Drawing:
    """Strokes to be read.

    Attributes:
        strokes: of points (x, y), from 0 to 1 across the pad, y downwards.
    """

    race: int
    strokes: list[list[list[float]]]


@dataclass(frozen=True)
class Teaching:
    """A drawing that is to be added to the data.

    Attributes:
        label: what it shows, by its name in the data set.
    """

    race: int
    strokes: list[list[list[float]]]
    label: str


def application(demo: Demo) -> Starlette:
    """Make the application that serves a demo."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        watcher = asyncio.create_task(demo.end_when_idle())
        try:
            yield
        finally:
            watcher.cancel()
            await demo.stop()

    async def index(request: Request) -> Response:
        return FileResponse(PAGE / "index.html")

    async def choices(request: Request) -> Response:
        return JSONResponse(demo.choices())

    async def events(request: Request) -> Response:
        if demo.is_full:
            return _error(503, "too many browsers watch: close one")
        return StreamingResponse(demo.watch(), media_type="text/event-stream")

    async def start(keys: Any) -> dict[str, Any]:
        return {"race": demo.start(race_settings(keys, demo.sources)).number}

    async def pause(keys: Any) -> dict[str, Any]:
        race = _under_way(_race(demo, checked(keys, OfRace).race))
        race.pause()
        return {"state": race.state}

    async def go_on(keys: Any) -> dict[str, Any]:
        race = _under_way(_race(demo, checked(keys, OfRace).race))
        race.go_on()
        return {"state": race.state}

    async def stop(keys: Any) -> dict[str, Any]:
        race = _under_way(_race(demo, checked(keys, OfRace).race))
        await demo.stop()
        return {"state": race.state}

    async def read(keys: Any) -> dict[str, Any]:
        drawing = checked(keys, Drawing)
        race = _race(demo, drawing.race)
        strokes = _strokes(drawing.strokes)

        def answer() -> dict[str, Any]:
            return _reading(race, race.reader.draw(strokes))

        return await asyncio.to_thread(answer)

    async def example(keys: Any) -> dict[str, Any]:
        race = _race(demo, checked(keys, OfRace).race)

        def answer() -> dict[str, Any]:
            picture, label = race.reader.example()
            return _reading(race, picture) | {"label": race.source.labels[label]}

        return await asyncio.to_thread(answer)

    async def teach(keys: Any) -> dict[str, Any]:
        teaching = checked(keys, Teaching)
        race = _race(demo, teaching.race)
        labels = race.source.labels
        if teaching.label not in labels:
            raise ValueError(f"label={teaching.label!r:.20}: expected one of {' '.join(labels)}")
        picture = race.reader.draw(_strokes(teaching.strokes))
        lesson = demo.teach(race, picture.values, labels.index(teaching.label))
        joins = not race.is_over and lesson.epoch < race.settings.epochs
        return {"epoch": lesson.epoch + 1 if joins else None}

    posts = (start, pause, go_on, stop, read, example, teach)
    return Starlette(
        routes=[
            Route("/", index),
            Route("/choices", choices),
            Route("/events", events),
            *(Route(f"/{act.__name__}", _post(act), methods=["POST"]) for act in posts),
            Mount("/page", StaticFiles(directory=PAGE)),
        ],
        lifespan=lifespan,
    )


def _post(act: Callable[[Any], Awaitable[Mapping[str, Any]]]) -> Callable:
    """Make the answer to a post of what `act` returns or raises."""

    async def answer(request: Request) -> Response:
        try:
            return JSONResponse(await act(json.loads(await request.body())))
        except Refusal as refusal:
            return _error(*refusal.args)
        except Unknown as error:
            return _error(404, str(error))
        except (WrongState, LookupError) as error:
            return _error(409, str(error))
        except (ValueError, RecursionError) as error:
            return _error(422, str(error))

    return answer


def _error(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status)


def _race(demo: Demo, number: int) -> Race:
    if demo.race is None or demo.race.number != number:
        raise Unknown(f"race {number}: there is no such race, or another has begun since")
    return demo.race


def _under_way(race: Race) -> Race:
    if race.is_over:
        raise WrongState("the race is over")
    return race


def _strokes(strokes: list[list[list[float]]]) -> list[list[list[float]]]:
    """Check strokes.

    Raises:
        ValueError: they are too many, or hold something else than points of the pad.
    """
    if len(strokes) > MOST_STROKES or sum(map(len, strokes)) > MOST_POINTS:
        raise ValueError(f"expected at most {MOST_STROKES} strokes and {MOST_POINTS} points")
    for stroke in strokes:
        for point in stroke:
            if len(point) != 2 or not all(0 <= value <= 1 for value in point):
                raise ValueError(f"point {point!r:.60}: expected x and y, each from 0 to 1")
    return strokes


def _reading(race: Race, picture: Picture) -> dict[str, Any]:
    levels = np.rint(255 * picture.ink).astype(int)
    return {"picture": levels.tolist(), "lanes": race.read(picture)}
