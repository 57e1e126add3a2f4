"""The service: its paths, and what becomes of a question between its request and its answer."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from rubric_arm_lite import __version__
from rubric_arm_lite.errors import BackendError, CheckpointError, ConfigError, DataError, PromptTooLongError
from rubric_arm_lite.recipe import Recipe
from rubric_arm_lite.reward_model.serve.batcher import ClosedError, QueueFullError, Worker
from rubric_arm_lite.reward_model.serve.schema import (
    MAX_VOTES,
    CompareBody,
    ComparedResponses,
    Question,
    Refused,
    Reply,
    RubricBody,
    ScoreBody,
    ScoredResponse,
    ScoreQuestion,
    WrittenRubric,
    answer_to,
    printable,
    sentence,
)
from rubric_arm_lite.reward_model.serve.security import Gate, GateSettings, Refusal, log_error

FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}


def add_page(app: FastAPI) -> None:
    """Serve the page for people at ``/``."""
    for path, (name, kind) in FILES.items():
        _add_file(app, path, _read(name), kind)


def add_docs(app: FastAPI) -> None:
    """Serve ``/docs``, made from the service's own OpenAPI document; call it when all paths are there."""
    from jinja2 import Environment, StrictUndefined

    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_read("docs.html"))
    document = app.openapi()
    page = template.render(paths=_paths(document), version=document["info"]["version"])
    _add_file(app, "/docs", page, "text/html")
    _add_file(app, "/docs.css", _read("page.css"), "text/css")


def _add_file(app: FastAPI, path: str, content: str, kind: str) -> None:
    async def file() -> Response:
        return Response(content, media_type=kind)

    app.get(path, include_in_schema=False)(file)


def _read(name: str) -> str:
    return resources.files("rubric_arm_lite.reward_model.serve").joinpath("page", name).read_text("utf-8")


def _paths(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Every path with its summary, the fields that go in and out, and an example of its body."""
    schemas = document.get("components", {}).get("schemas", {})
    found = []
    for path, methods in document["paths"].items():
        for method, said in methods.items():
            body = _of(_held(said.get("requestBody", {})), schemas)
            answer = _of(_held(said["responses"].get("200", {})), schemas)
            example = {
                name: field["examples"][0] for name, field in body.get("properties", {}).items() if "examples" in field
            }
            example.pop("rubric", None)
            found.append(
                {
                    "path": path,
                    "method": method.upper(),
                    "summary": said["summary"],
                    "fields": _fields(body, schemas),
                    "answers": _fields(answer, schemas),
                    "example": json.dumps(example, ensure_ascii=False, indent=2) if example else "",
                }
            )
    return found


def _held(holder: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = holder.get("content", {}).get("application/json", {}).get("schema", {})
    return schema


def _of(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """The schema itself, or the one that it refers to."""
    found: dict[str, Any] = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
    return found


def _fields(schema: dict[str, Any], schemas: dict[str, Any]) -> list[dict[str, str]]:
    needed = schema.get("required", [])
    return [
        {
            "name": name,
            "kind": _kind(field, schemas),
            "needed": "needed" if name in needed else "",
            "said": _said(field),
        }
        for name, field in schema.get("properties", {}).items()
    ]


def _kind(field: dict[str, Any], schemas: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_kind(one, schemas) for one in field["anyOf"])
    if "enum" in field:
        return " or ".join(map(str, field["enum"]))
    if field.get("type") == "array":
        return f"list of {_kind(field.get('items', {}), schemas)}"
    inside = _of(field, schemas).get("properties", {})
    if inside:
        return "{" + ", ".join(f"{name}: {_kind(one, schemas)}" for name, one in inside.items()) + "}"
    return str(field.get("type", "anything"))


def _said(field: dict[str, Any]) -> str:
    parts = [field.get("description", "")]
    if "maxLength" in field:
        parts.append(f"At most {field['maxLength']:,} characters.")
    if "maximum" in field:
        parts.append(f"{field['minimum']:g} to {field['maximum']:g}.")
    if field.get("default") is not None:
        parts.append(f"Default: {json.dumps(field['default'])}.")
    return " ".join(part for part in parts if part)


CLIENT_GONE = 499
"""Status in the log of a request whose client left; nobody reads it."""
EXAMPLES = 40
"""Pairs of the testbed that the page draws its examples from."""


@dataclass(frozen=True, slots=True)
class Service:
    """What is served.

    Attributes:
        name: what the page calls it.
        states: the states that may be asked for, looked up anew each time since a run may go on.
        state: the one that answers if a request names none.
        seconds: time for one request, waiting included.
    """

    name: str
    recipe: Recipe
    worker: Worker[Question, Reply]
    states: Callable[[], list[str]]
    state: str
    seconds: float = 300.0


def build_app(service: Service, gate: GateSettings, page: bool = False) -> ASGIApp:
    """The service as an ASGI application.

    Args:
        page: whether the page for people is there, at ``/``.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        # All requests have been answered by now; at most a batch nobody waits for any more is being asked.
        service.worker.close(timeout=service.seconds)

    refused: dict[int | str, dict[str, Any]] = {
        status: {"model": Refused} for status in (400, 401, 403, 408, 409, 413, 415, 422, 501, 502, 503, 504)
    }
    app = FastAPI(
        title="rubric-arm",
        version=__version__,
        summary="A rubric generator and a judge, learned from preference pairs.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # where to is made of the Host header, and no sentence
        responses=refused,
    )
    _add_errors(app)
    _add_questions(app, service)
    _add_facts(app, service)
    add_docs(app)
    if page:
        add_page(app)
        _add_example(app, service.recipe)
    return Gate(app, gate)


def _add_questions(app: FastAPI, service: Service) -> None:
    async def answered(body: RubricBody | CompareBody | ScoreBody, request: Request) -> Response:
        question = body.question(_state(service, body.state))
        reply = await _ask(service, question, request)
        return Response(status_code=CLIENT_GONE) if reply is None else _json(answer_to(question, reply).model_dump())

    @app.post("/v1/rubric", summary="Write a rubric for a prompt", responses={200: {"model": WrittenRubric}})
    async def rubric(body: RubricBody, request: Request) -> Response:
        return await answered(body, request)

    @app.post("/v1/compare", summary="Judge two responses", responses={200: {"model": ComparedResponses}})
    async def compare(body: CompareBody, request: Request) -> Response:
        return await answered(body, request)

    @app.post("/v1/score", summary="Score one response", responses={200: {"model": ScoredResponse}})
    async def score(body: ScoreBody, request: Request) -> Response:
        return await answered(body, request)


def _add_facts(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", summary="Whether questions are answered")
    async def health() -> Response:
        alive = service.worker.alive
        found = {"status": "ok" if alive else "stopped", "waiting": service.worker.waiting, "version": __version__}
        return _json(found, 200 if alive else 503)

    @app.get("/v1/about", summary="What is served")
    async def about() -> Response:
        return _json(
            {
                "name": service.name,
                "recipe": service.recipe.name,
                "state": service.state,
                "states": service.states(),
                "max_votes": MAX_VOTES,
                "examples": service.recipe.data.source == "testbed",
            }
        )


def _add_example(app: FastAPI, recipe: Recipe) -> None:
    if recipe.data.source != "testbed":
        return
    from rubric_arm_lite.data.testbed.world import World

    blocks = World(recipe.seed, recipe.data.world).blocks("test", EXAMPLES)
    pairs = [pair for block in blocks for pair in block.pairs]
    drawn = random.Random()

    @app.get("/v1/example", summary="A pair of the testbed, in a drawn order")
    async def example() -> Response:
        pair = drawn.choice(pairs)
        shown = pair.present(drawn.choice(("A", "B"))).comparison
        return _json({"prompt": shown.prompt, "response_a": shown.response_a, "response_b": shown.response_b})


def _state(service: Service, asked: str | None) -> str:
    if asked is None or asked == service.state:
        return service.state
    states = service.states()
    if asked not in states:
        raise Refusal(422, f"state: {printable(asked)} is not served here. Use one of {', '.join(states)}.")
    return asked


async def _ask(service: Service, question: Question, request: Request) -> Reply | None:
    """Wait for the answer, as long as the client does and the time lasts; None if the client left.

    Raises:
        Refusal: if there is no room, no time, or no answer to this question.
    """
    worker = service.worker
    try:
        answer = asyncio.wrap_future(worker.submit(question))
    except QueueFullError:
        after = {"retry-after": str(worker.wait_estimate())}
        raise Refusal(503, f"{worker.waiting} questions are waiting already. Try again later.", after) from None
    except ClosedError:
        raise Refusal(503, "The service is stopping. Ask another, or again later.") from None
    gone = asyncio.ensure_future(_left(request))
    try:
        first: set[asyncio.Future[Any]] = {answer, gone}
        done, _ = await asyncio.wait(first, timeout=service.seconds, return_when=asyncio.FIRST_COMPLETED)
        if answer in done:
            return answer.result()
        if gone in done:
            return None
        raise Refusal(504, f"There was no answer within {service.seconds:g} seconds. Ask for less, or again later.")
    except (Refusal, asyncio.CancelledError):
        raise
    except Exception as error:
        raise _refusal(question, error) from None
    finally:
        gone.cancel()
        answer.cancel()  # takes the question out of the queue, if it still waits there


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _refusal(question: Question, error: Exception) -> Refusal:
    match error:
        case DataError() | PromptTooLongError():
            return Refusal(422, str(error))
        case CheckpointError():
            return Refusal(409, str(error))
        case ConfigError():  # of the run that is served, which has another kind of judge
            return Refusal(501, str(error))
        case BackendError():
            # Scores need what not every backend has; everything else is a server behind this one.
            return Refusal(501 if isinstance(question, ScoreQuestion) else 502, str(error))
        case _:
            log_error(error)
            return Refusal(500, "The model failed on this request. The log says where; please report it.")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        return _json({"error": refusal.sentence}, refusal.status, refusal.headers)

    @app.exception_handler(DataError)
    async def unusable(_: Request, error: DataError) -> Response:
        return _json({"error": str(error)}, 422)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        errors = error.errors()
        return _json({"error": sentence(errors)}, 400 if errors[0]["type"] == "json_invalid" else 422)

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        match error.status_code:
            case 404:
                said = "There is nothing at this path. /docs lists what there is."
            case 405:
                said = "This path does not take that method. /docs says which."
            case 400:
                said = "The body is not JSON that can be read. Send one JSON object."
            case _:
                said = str(error.detail)
        return _json({"error": said}, error.status_code, error.headers)


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    # In ASCII, so that half of a surrogate pair in a model's text is an escape and no failure.
    return Response(json.dumps(value), status, headers, "application/json")
