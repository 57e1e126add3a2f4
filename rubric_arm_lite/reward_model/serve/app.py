"""The routes of the service, its error answers, its list of routes at ``/docs`` and the page at ``/``."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from rubric_arm_lite import __version__, errors
from rubric_arm_lite.data.testbed import make_world
from rubric_arm_lite.recipe import WORLDS
from rubric_arm_lite.recipe.entries import printable
from rubric_arm_lite.reward_model.serve import schema
from rubric_arm_lite.reward_model.serve.batcher import BatchedJudge, Batcher
from rubric_arm_lite.reward_model.serve.security import AsciiJSON, SecurityMiddleware, SecuritySettings, refusal


def build_app(
    name: str,
    judge: BatchedJudge,
    batcher: Batcher[schema.Body, schema.WrittenRubric],
    security: SecuritySettings,
    seconds: float = 300.0,
    page: bool = False,
) -> ASGIApp:
    """The service as an ASGI application.

    Args:
        name: what the page calls it.
        batcher: the queue in front of ``judge``.
        seconds: time limit of one request, waiting included.
        page: add the page for people at ``/``.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        # All requests have been answered by now; at most, a batch is running that nobody waits for any more.
        batcher.close(timeout=seconds)

    app = FastAPI(
        title="rubric-arm",
        version=__version__,
        summary="A rubric generator and a judge, learned from preference pairs.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat the Host header
        default_response_class=AsciiJSON,
        responses={s: {"model": schema.Refused} for s in (400, 401, 403, 408, 409, 413, 415, 422, 501, 502, 503, 504)},
    )
    _add_error_handlers(app)
    _add_routes(app, name, judge, batcher, seconds)
    recipe, draw = judge.model.recipe, random.Random()
    if page and (world := make_world(recipe.data, recipe.seed)) is not None:
        pairs = [pair for block in world.blocks("test", 40) for pair in block.pairs]

        @app.get("/v1/example", summary="A random pair of the run's synthetic world, in random order")
        async def example() -> dict[str, Any]:
            shown = draw.choice(pairs).present(draw.choice(("A", "B"))).comparison
            return {"prompt": shown.prompt, "response_a": shown.response_a, "response_b": shown.response_b}

    _add_files(app, page)
    return SecurityMiddleware(app, security)


def _add_routes(
    app: FastAPI,
    name: str,
    judge: BatchedJudge,
    batcher: Batcher[schema.Body, schema.WrittenRubric],
    seconds: float,
) -> None:
    @app.post("/v1/rubric", summary="Write a rubric for a prompt")
    async def rubric(body: schema.RubricBody, request: Request) -> schema.WrittenRubric:
        return await answer(body, request)

    @app.post("/v1/compare", summary="Judge two responses", response_model=schema.ComparedResponses)
    async def compare(body: schema.CompareBody, request: Request) -> schema.WrittenRubric:
        return await answer(body, request)

    @app.post("/v1/score", summary="Score one response", response_model=schema.ScoredResponse)
    async def score(body: schema.ScoreBody, request: Request) -> schema.WrittenRubric:
        return await answer(body, request)

    @app.get("/healthz", summary="Whether requests are answered")
    async def health(response: Response) -> dict[str, Any]:
        alive = batcher.alive
        response.status_code = 200 if alive else 503
        return {"status": "ok" if alive else "stopped", "waiting": batcher.waiting, "version": __version__}

    @app.get("/v1/about", summary="What is served")
    async def about() -> dict[str, Any]:
        recipe = judge.model.recipe
        return {
            "name": name,
            "recipe": recipe.name,
            "state": judge.state,
            "states": judge.states(),
            "max_votes": schema.MAX_VOTES,
            "examples": recipe.data.source in WORLDS,
        }

    async def answer(body: schema.Body, request: Request) -> schema.WrittenRubric:
        """Wait for the answer or the error of a request, as long as the client does and the time lasts."""
        if body.state not in (None, judge.state) and body.state not in (states := judge.states()):
            state = printable(body.state)
            raise HTTPException(422, f"state: {state} is not served here. Use one of {', '.join(states)}.")

        async def disconnected() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        answered = asyncio.wrap_future(batcher.submit(body))
        gone = asyncio.ensure_future(disconnected())
        try:
            await asyncio.wait((answered, gone), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if answered.done():
                return answered.result()
            if gone.done():
                raise HTTPException(499, "The client left.")  # for the log; nobody receives it
            sentence = f"There was no answer within {seconds:g} seconds. Ask for less, or try again later."
            raise HTTPException(504, sentence)
        finally:
            gone.cancel()
            answered.cancel()  # takes the request out of the queue, if it still waits there


def _add_files(app: FastAPI, page: bool) -> None:
    """Serve ``/docs``, rendered from the service's own OpenAPI document, and the page for people."""
    from jinja2 import Environment

    folder = resources.files("rubric_arm_lite.reward_model.serve") / "page"

    def add(path: str, name: str, media_type: str, render: bool = False) -> None:
        content = (folder / name).read_text("utf-8")
        if render:
            content = Environment(autoescape=True).from_string(content).render(document=app.openapi())

        @app.get(path, include_in_schema=False)
        async def file() -> Response:
            return Response(content, media_type=media_type)

    add("/docs", "docs.html", "text/html", render=True)
    add("/docs.css", "page.css", "text/css")
    if page:
        add("/", "index.html", "text/html")
        add("/page.css", "page.css", "text/css")
        add("/page.js", "page.js", "text/javascript")


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        details = error.errors()
        return refusal(400 if details[0]["type"] == "json_invalid" else 422, schema.validation_message(details))

    @app.exception_handler(errors.RubricArmError)
    async def failed(request: Request, error: errors.RubricArmError) -> Response:
        match error:
            case errors.DataError() | errors.PromptTooLongError():
                return refusal(422, str(error))
            case errors.CheckpointError():
                return refusal(409, str(error))
            case errors.BackendError() if request.url.path != "/v1/score":  # the server behind this one
                return refusal(502, str(error))
            case errors.ConfigError() | errors.BackendError():  # wrong kind of judge; no probabilities
                return refusal(501, str(error))
        raise error

    @app.exception_handler(Exception)  # logged by the middleware, without its message
    async def broken(_: Request, error: Exception) -> Response:
        return refusal(500, "The service failed on this request. Its log says where; please report it.")

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        sentences = {  # in place of Starlette's and FastAPI's own
            400: "The body is not JSON that can be read. Send one JSON object.",
            404: "There is nothing at this path. /docs lists what there is.",
            405: "This path does not take that method. /docs says which.",
        }
        return refusal(error.status_code, sentences.get(error.status_code, error.detail), error.headers)
