"""Writes the repository's address into the notebooks: badges that open them, and where the package comes from.

``notebooks/source.txt`` is the one place that knows the address, ``https://github.com/OWNER/NAME``; while it says
``none``, the notebooks have no badges and install from the clone around them. ``python -m notebooks.badges`` writes it
to all notebooks, and ``--check`` only says which would change.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

NONE = "none"
ADDRESS = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")
_BADGES = re.compile(r"\A(?:\[!\[.*\n\n)")
_SOURCE = re.compile(r'^SOURCE = ".*"$', re.MULTILINE)


def badges(address: str, name: str) -> str:
    """The line of badges of a notebook."""
    page = f"{address.removeprefix('https://github.com/')}/blob/main/notebooks/{name}"
    colab = f"https://colab.research.google.com/github/{page}"
    kaggle = f"https://kaggle.com/kernels/welcome?src=https://github.com/{page}"
    return (
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab}) "
        f"[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]({kaggle})"
    )


def write(folder: Path, check: bool = False) -> list[Path]:
    """Write the address to the notebooks of a folder with a ``source.txt``; returns those that changed.

    Args:
        check: change nothing, only say what would.

    Raises:
        ValueError: if ``source.txt`` holds no address.
    """
    address = (folder / "source.txt").read_text("utf-8").strip()
    if address != NONE and not ADDRESS.fullmatch(address):
        raise ValueError(f"{folder / 'source.txt'}: {address!r}. Write https://github.com/OWNER/NAME, or {NONE}.")
    changed = []
    for path in sorted(folder.glob("*.ipynb")):
        text = path.read_text("utf-8")
        notebook = json.loads(text)
        for cell, change in zip(notebook["cells"][:2], (_with_badges, _with_source), strict=True):
            cell["source"] = change("".join(cell["source"]), address, path.name).splitlines(keepends=True)
        written = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        if written != text:
            changed.append(path)
            if not check:
                path.write_text(written, "utf-8")
    return changed


def _with_badges(text: str, address: str, name: str) -> str:
    rest = _BADGES.sub("", text)
    return rest if address == NONE else f"{badges(address, name)}\n\n{rest}"


def _with_source(text: str, address: str, name: str) -> str:
    return _SOURCE.sub(f'SOURCE = "{"" if address == NONE else f"git+{address}"}"', text, count=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a notebook would change")
    found = write(Path(__file__).parent, parser.parse_args().check)
    print("\n".join(map(str, found)) or "All notebooks have this address.")
    raise SystemExit(1 if found and parser.parse_args().check else 0)
