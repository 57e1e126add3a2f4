"""Plug-ins: functions of a researcher, named in a recipe as ``my_module:my_function`` or ``file.py:my_function``.

Their code is imported only when a recipe names it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from rubric_arm_lite.errors import ConfigError, first_line


def is_plugin(name: str) -> bool:
    """Whether a value of a recipe names a plug-in rather than something built in."""
    return ":" in name


def load_plugin(name: str, kind: str) -> Callable[..., Any]:
    """The function that ``name`` names; ``kind`` is the field of the recipe, such as ``data.format``, for errors.

    A file is read anew each time, so that a notebook sees its latest code.

    Raises:
        ConfigError: if there is no such module, file or function, its code fails, or it is not callable.
    """
    source, _, function_name = name.rpartition(":")
    if not source or not function_name.isidentifier():
        raise ConfigError(f"{kind}: {name!r} names no function. Write my_module:my_function or file.py:my_function.")
    if source.endswith(".py") and not os.path.isfile(source):  # noqa: PTH113  # Path.is_file raises for a long name
        raise ConfigError(f"{kind}: there is no file {source}. Give a path from here, or beside the recipe.")
    try:
        module = _run_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{kind}: {name!r} cannot be imported ({error}). Install the module, add its folder to PYTHONPATH, or give "
            "the path of its file: file.py:my_function."
        ) from error
    except Exception as error:  # whatever the module's own code raises
        raise ConfigError(
            f"{kind}: the code of {source} fails ({type(error).__name__}: {first_line(error)}). Correct it."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        problem = "has no function" if function is None else "has something that cannot be called under the name"
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(
            f"{kind}: {source} {problem} {function_name!r}. It has the functions: {', '.join(names) or 'none'}."
        )
    return function  # type: ignore[no-any-return]


def _run_file(path: Path) -> ModuleType:
    """A new module of a file."""
    module_name = f"rubric_arm_plugin_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickle look a module up by its name
    spec.loader.exec_module(module)
    return module
