"""Give a running server other weights under a name that it serves already (vLLM's ``load_lora_adapter``).

A folder is loaded in place: one that cannot be loaded leaves what the server had. Versions of vLLM that do not know
``load_inplace`` have to forget the old adapter first.
"""

from __future__ import annotations

from pathlib import Path

from rubric_arm_lite.backends.server_http import JsonServer, RefusedRequest
from rubric_arm_lite.backends.server_text import clean
from rubric_arm_lite.errors import BackendError

_LOAD = "/v1/load_lora_adapter"
_UNLOAD = "/v1/unload_lora_adapter"
_FINAL = frozenset({500})
"""vLLM answers so where an adapter does not fit its base; it would not fit the next time either."""


def load_lora(server: JsonServer, model: str, path: str | Path) -> None:
    """Have the server load a PEFT folder under the name ``model``, in place of what it has there.

    Args:
        path: the folder as the server's machine sees it.

    Raises:
        BackendError: if the server cannot load adapters while it runs, or not this one.
    """
    body = {"lora_name": model, "lora_path": str(path)}
    kept = "What it had under this name still answers."
    try:
        try:
            server.ask(_LOAD, body | {"load_inplace": True}, b"".join, final=_FINAL)
            return
        except RefusedRequest as error:
            if error.status != 400 or "already" not in error.said:
                raise
        _forget(server, model)
        kept = "It has nothing under this name now: load a folder that it takes."
        server.ask(_LOAD, body, b"".join, final=_FINAL)
    except RefusedRequest as error:
        if error.status in (401, 403):
            raise
        raise BackendError(
            f'The server did not load adapter `{model}` from {path}: {error.status}, "{clean(error.said)}". '
            + _mend(error, kept)
        ) from error


def _forget(server: JsonServer, model: str) -> None:
    try:
        server.ask(_UNLOAD, {"lora_name": model}, b"".join, final=_FINAL)
    except RefusedRequest as error:
        if error.status not in (400, 404):  # somebody else was faster
            raise


def _mend(error: RefusedRequest, kept: str) -> str:
    if error.status in (404, 405) and "no adapter" not in error.said.lower():
        return (
            "It cannot load adapters while it runs: start vLLM with --enable-lora and "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or start it anew with the new adapters."
        )
    if error.status == 404:
        return f"{kept} Give a folder that the server's machine has, with the path it has there."
    return f"{kept} Check that the folder was made for the server's base, and that --max-lora-rank is no less."
