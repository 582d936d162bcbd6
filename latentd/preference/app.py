"""The study as a page on loopback. Nothing it serves names a method or file: a pair has a number and two places."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field, StringConstraints

from core.errors import Forbidden, LatentdError, NotFound
from core.pictures import lossless, open_upload
from core.settings import MAX_PIXELS
from latentd.preference.answers import AnswerFile
from latentd.preference.study import Place, Showing, Study
from service.http.hosts import is_loopback, named_host
from service.http.middleware import CSP, SAFE_HEADERS
from service.http.problems import MEDIA_TYPE

OWN = Path(__file__).parent / "static"
LOOK = Path(__file__).parents[2] / "service" / "static"  # the page's colours and buttons
HEADERS = {"Content-Security-Policy": CSP.format(images=""), **SAFE_HEADERS, "Cache-Control": "no-store"}

Participant = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^\w[\w .@-]{0,63}$")]


class Choice(BaseModel):
    """A participant's answer to the pair of a number."""

    participant: Participant
    number: int = Field(ge=0)
    place: Place
    seconds: float = Field(ge=0, allow_inf_nan=False)


class Next(BaseModel):
    """What a participant sees next; no number after the last pair."""

    number: int | None
    answered: int
    of: int
    question: str = ""
    prompt: str = ""
    given: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Desk:
    """The study and its answers, as the calls use them."""

    study: Study
    answers: AnswerFile

    def next(self, participant: str) -> Next:
        """Find the first pair without an answer."""
        shown = self.study.shown_to(participant)
        left = [number for number, showing in enumerate(shown) if not self.answers.has(participant, showing)]
        counts: dict[str, Any] = {"answered": len(shown) - len(left), "of": len(shown)}
        if not left:
            return Next(number=None, **counts)
        pair = shown[left[0]].pair
        told: dict[str, Any] = {
            "question": self.study.ask(pair),
            "prompt": pair.prompt,
            "given": pair.given is not None,
        }
        return Next(number=left[0], seconds=self.study.seconds, **counts, **told)

    def showing(self, participant: str, number: int) -> Showing:
        """Raises NotFound for a number that there is no pair of."""
        shown = self.study.shown_to(participant)
        if number >= len(shown):
            raise NotFound(f"there is no pair {number}", field="number", value=number, bound=len(shown) - 1)
        return shown[number]


def create_app(study: Study, answers: AnswerFile) -> FastAPI:
    """Wire the page and its three calls."""
    desk = Desk(study, answers)
    app = FastAPI(openapi_url=None)
    app.add_exception_handler(LatentdError, _problem)
    app.middleware("http")(_guarded)

    @app.get("/next")
    def next_pair(participant: Annotated[Participant, Query()]) -> Next:
        return desk.next(participant)

    @app.get("/pictures/{number}/{place}")
    def picture(number: int, place: Place, participant: Annotated[Participant, Query()]) -> Response:
        return _shown(desk.showing(participant, number).file(place))

    @app.get("/given/{number}")
    def given(number: int, participant: Annotated[Participant, Query()]) -> Response:
        file = desk.showing(participant, number).pair.given
        if file is None:
            raise NotFound("this study shows nothing between its pictures")
        return _shown(file)

    @app.post("/answers")
    def answer(choice: Choice) -> Next:
        showing = desk.showing(choice.participant, choice.number)
        answers.add(choice.participant, showing, showing.at(choice.place), choice.seconds)
        return desk.next(choice.participant)

    app.mount("/css", StaticFiles(directory=LOOK / "css"))
    app.mount("/", StaticFiles(directory=OWN, html=True))
    return app


def _shown(file: Path) -> Response:
    """Answer a picture as pixels alone: no name, text, profile or format of its file.

    Raises:
        NotFound: it can't be read any more.
        InvalidRequest: it is no picture any more.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise NotFound("this picture is gone, or can't be read") from error
    return Response(lossless(open_upload(data, MAX_PIXELS)), media_type="image/png")


async def _guarded(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    """Answer this machine's own page alone, and bound what it may load."""
    sent = request.headers.get("host", "")
    origin = request.headers.get("origin")
    host = named_host(sent)
    if host is None or not is_loopback(host) or origin not in (None, f"http://{sent}"):
        response = _problem(request, Forbidden("this study is served to its own page on this machine alone"))
    else:
        response = await answer(request)
    response.headers.update(HEADERS)
    return response


def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, LatentdError)
    problem = error.problem()
    return JSONResponse(problem.model_dump(exclude_none=True), problem.status, media_type=MEDIA_TYPE)
