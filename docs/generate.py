"""What the site needs beyond the pages: ``docs/cli.md`` from the command line itself, and links out of ``docs/``.

``python docs/generate.py`` writes ``docs/cli.md``. As a hook of mkdocs it turns links to other files of the repository,
which work on a code host as they are, into links to the repository's address (``notebooks/source.txt``), and copies
the pictures among them into the site. A link to a file that does not exist ends the build.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
_OUTSIDE = re.compile(r"(!?)\[([^\]]*)\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")


def cli_page() -> str:
    """Every verb with its arguments and options, as Typer describes them."""
    import typer
    from typer.cli import get_docs_for_click

    from rubric_arm_lite.cli.main import app

    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="rubric-arm")
    text = get_docs_for_click(obj=command, ctx=context, name="rubric-arm", title="Command line")
    note = "<!-- Written by python docs/generate.py from the command line itself; do not edit. -->\n\n"
    return note + text.rstrip() + "\n"


def on_files(files: Any, config: Any) -> Any:
    """Add pictures that stand elsewhere in the repository."""
    from mkdocs.structure.files import File

    for page in sorted(DOCS.glob("*.md")):
        for picture, _, target, _ in _OUTSIDE.findall(page.read_text("utf-8")):
            name = target.removeprefix("../")
            if picture and files.get_file_from_path(name) is None:
                files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point links out of ``docs/`` to the repository, or name the file where the repository has no address yet."""
    address = (ROOT / "notebooks" / "source.txt").read_text("utf-8").strip()

    def replaced(link: re.Match[str]) -> str:
        picture, text, target, anchor = link.groups(default="")
        name = target.removeprefix("../")
        if not (ROOT / name).exists():
            raise FileNotFoundError(f"docs/{page.file.src_uri}: {target} does not exist. Correct the link.")
        if picture:
            return f"![{text}]({name})"
        if address == "none":
            return text if name in text else f"{text} (`{name}`)"
        return f"[{text}]({address}/blob/main/{name}{anchor})"

    return _OUTSIDE.sub(replaced, markdown)


if __name__ == "__main__":
    (DOCS / "cli.md").write_text(cli_page(), "utf-8")
