"""Plug-ins: functions of a researcher, named in a recipe as ``my_module:my_function`` or ``file.py:my_function``.

Their code is imported only when a recipe that names it is used; loading a recipe looks for them without running them.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import symtable
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from itertools import accumulate
from pathlib import Path
from types import CodeType
from typing import Any

from rubric_arm_lite.errors import ConfigError, first_line

_NAMES_AT_RUN_TIME = re.compile(r"import\s*\(?\s*\*|__getattr__|\b(?:exec|globals|vars|setattr)\b")
"""Source that may give a module names which its text does not assign."""


class _SourceLoader(SourceFileLoader):
    """Compiles a file each time: stored bytecode is only told apart by a file's size and the second it was written."""

    def get_code(self, fullname: str) -> CodeType:
        """See :class:`importlib.abc.InspectLoader`."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def is_plugin(name: str) -> bool:
    """Whether a value of a recipe names a plug-in rather than something built in."""
    return ":" in name


def load_plugin(name: str, kind: str) -> Callable[..., Any]:
    """The function that ``name`` names; ``kind`` is the field of the recipe, such as ``data.format``, for errors.

    A file is read anew each time, so that a notebook sees its latest code.

    Raises:
        ConfigError: if there is no such module, file or function, its code fails, or it is not callable.
    """
    source, function_name = _split(name, kind)
    try:
        if source.endswith(".py"):
            module_name = f"rubric_arm_plugin_{hashlib.sha256(str(Path(source).resolve()).encode()).hexdigest()[:12]}"
            loader = _SourceLoader(module_name, source)
            spec = importlib.util.spec_from_file_location(module_name, source, loader=loader)
            assert spec is not None and spec.loader is not None, source
            module = importlib.util.module_from_spec(spec)
            sys.modules[module_name] = module  # dataclasses and pickle look a module up by its name
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(source)
    except ModuleNotFoundError as error:
        raise _not_importable(name, kind, str(error)) from error
    except Exception as error:  # whatever the module's own code raises
        raise _failing(source, kind, error) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        problem = "has no function" if function is None else "has something that cannot be called under the name"
        names = [key for key, value in vars(module).items() if callable(value)]
        raise ConfigError(f"{kind}: {source} {problem} {function_name!r}. {_functions(names)}")
    return function  # type: ignore[no-any-return]


def check_plugin(name: str, kind: str) -> None:
    """Refuse what :func:`load_plugin` could not load, as far as this shows without running any code of it.

    Raises:
        ConfigError: if there is no such module or file, its source does not parse, or does not define the name.
    """
    source, function_name = _split(name, kind)
    file: str | None = source
    if not source.endswith(".py"):
        spec: ModuleSpec | None = None
        for module in accumulate(source.split("."), "{}.{}".format):
            places = None if "." not in module else (spec and spec.submodule_search_locations) or ()
            specs = (finder.find_spec(module, places) for finder in sys.meta_path)
            spec = next((found for found in specs if found), None)
            if spec is None:
                raise _not_importable(name, kind, f"No module named {module!r}")
        file = spec.origin if spec and spec.has_location else None
    if not file or not file.endswith(".py"):
        return  # built in or compiled
    try:
        text = Path(file).read_bytes().decode("utf-8-sig")
        table = symtable.symtable(text, file, "exec")
    except (OSError, SyntaxError, ValueError) as error:
        raise _failing(source, kind, error) from error
    assigned = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    if function_name not in assigned and not _NAMES_AT_RUN_TIME.search(text):
        names = [child.get_name() for child in table.get_children() if child.get_name() in assigned]
        raise ConfigError(f"{kind}: {source} has no function {function_name!r}. {_functions(names)}")


def _split(name: str, kind: str) -> tuple[str, str]:
    """The module or file, and the function."""
    source, _, function_name = name.rpartition(":")
    if not source or not function_name.isidentifier():
        raise ConfigError(f"{kind}: {name!r} names no function. Write my_module:my_function or file.py:my_function.")
    if source.endswith(".py") and not os.path.isfile(source):  # noqa: PTH113  # Path.is_file raises for a long name
        raise ConfigError(f"{kind}: there is no file {source}. Give a path from here, or beside the recipe.")
    return source, function_name


def _functions(names: Sequence[str]) -> str:
    return f"It has the functions: {', '.join(name for name in names if not name.startswith('_')) or 'none'}."


def _failing(source: str, kind: str, error: Exception) -> ConfigError:
    problem = f"{type(error).__name__}: {first_line(error)}"
    return ConfigError(f"{kind}: the code of {source} fails ({problem}). Correct it.")


def _not_importable(name: str, kind: str, problem: str) -> ConfigError:
    return ConfigError(
        f"{kind}: {name!r} cannot be imported ({problem}). Install the module, add its folder to PYTHONPATH, or give "
        "the path of its file: file.py:my_function."
    )
