"""``rubric-arm policy``: train a policy against a finished reward model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rubric_arm_lite import report as reports
from rubric_arm_lite import training
from rubric_arm_lite.cli.common import ExistsOption, JsonOption
from rubric_arm_lite.cli.progress import run_and_show
from rubric_arm_lite.runs import IfExists

policy_app = typer.Typer(help="Train a policy against a finished reward model.", no_args_is_help=True)

METHODS = {
    "dpo": "One round of DPO on pairs sampled from the policy and labeled in both orders.",
    "iterdpo": "Rounds of sampling, labeling and DPO, each from the policy of the round before.",
    "grpo": "Online GRPO: answers that beat the policy's own greedy answer are rewarded.",
}


def _add_verb(method: str, text: str) -> None:
    def verb(
        recipe: Annotated[str, typer.Argument(help="A policy recipe, or the name of a shipped one (testbed).")],
        reward: Annotated[str | None, typer.Option(metavar="RUN", help="The reward model's run directory.")] = None,
        server: Annotated[
            str | None,
            typer.Option(metavar="URL", help="An OpenAI-compatible server that has the reward model's adapters."),
        ] = None,
        overrides: Annotated[
            list[str] | None, typer.Option("--set", help="Override a field: --set dpo.beta=0.05.")
        ] = None,
        run_dir: Annotated[Path | None, typer.Option(help="Where results go (default: runs/NAME-METHOD).")] = None,
        resume: Annotated[bool, typer.Option("--resume", help="Same as --if-exists resume.")] = False,
        if_exists: ExistsOption = "raise",
        as_json: JsonOption = False,
    ) -> None:
        exists: IfExists = "resume" if resume else if_exists
        sets = [*(overrides or ()), f"method={method}"]
        run_and_show(
            lambda progress: training.train_policy(
                recipe, run_dir, reward=reward, server=server, overrides=sets, if_exists=exists, progress=progress
            ),
            as_json,
        )

    policy_app.command(method, help=text)(verb)


for _method, _text in METHODS.items():
    _add_verb(_method, _text)


@policy_app.command()
def report(run: Annotated[Path, typer.Argument(help="A policy run's directory.")]) -> None:
    """Write report.html and report.md of a policy run."""
    for path in reports.write_policy_report(run):
        print(path)
