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
            body = _schema(said.get("requestBody", {}), schemas)
            answer = _schema(said["responses"].get("200", {}), schemas)
            example = {
                name: field["examples"][0] for name, field in body.get("properties", {}).items() if "examples" in field
            }
            example.pop("rubric", None)
            found.append(
                {
                    "path": path,
                    "method": method.upper(),
                    "summary": said["summary"],
                    "fields": _fields(body),
                    "answers": _fields(answer),
                    "example": json.dumps(example, ensure_ascii=False, indent=2) if example else "",
                }
            )
    return found


def _schema(holder: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    reference = holder.get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", "")
    schema: dict[str, Any] = schemas.get(reference.rpartition("/")[2], {})
    return schema


def _fields(schema: dict[str, Any]) -> list[dict[str, str]]:
    needed = schema.get("required", [])
    return [
        {"name": name, "kind": _kind(field), "needed": "needed" if name in needed else "", "said": _said(field)}
        for name, field in schema.get("properties", {}).items()
    ]


def _kind(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_kind(one) for one in field["anyOf"])
    if "enum" in field:
        return " or ".join(map(str, field["enum"]))
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if field.get("type") == "array":
        return f"list of {_kind(field.get('items', {}))}"
    return str(field.get("type", "anything"))


def _said(field: dict[str, Any]) -> str:
    parts = [field.get("description", "")]
    if "maxLength" in field:
        parts.append(f"At most {field['maxLength']} characters.")
    if "maximum" in field:
        parts.append(f"{field['minimum']} to {field['maximum']}.")
    if field.get("default") is not None:
        parts.append(f"Default: {field['default']}.")
    return " ".join(part for part in parts if part)
