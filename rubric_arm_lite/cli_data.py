"""``rubric-arm data``: verbs over data files."""

from __future__ import annotations

import typer

from rubric_arm_lite.cli_synthesize import synthesize

data_app = typer.Typer(help="Make warm-up data.", no_args_is_help=True)
data_app.command("synthesize")(synthesize)


@data_app.callback()
def _data() -> None:
    """A group even with one verb."""
