"""Pages for people: the one on which a pair is judged, and the list of paths and fields at ``/docs``.

Both come from the package's own files; nothing is fetched from elsewhere, so they work offline.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from fastapi import FastAPI, Response

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
    return resources.files("rubric_arm_lite.serve").joinpath("page", name).read_text("utf-8")


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
