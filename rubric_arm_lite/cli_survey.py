"""What ``rubric-arm data check`` shows: a survey as text, and the first rows as the models will see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rubric_arm_lite.cli_common import out, quiet_libraries

if TYPE_CHECKING:
    from rubric_arm_lite.data import WarmupRow
    from rubric_arm_lite.prompts import PromptBuilder
    from rubric_arm_lite.sources.survey import Measure, Survey
    from rubric_arm_lite.types import PreferencePair


def reader_of(model: str | None, recipe: str | None) -> tuple[PromptBuilder, str, Measure]:
    """Who writes the prompts, and the unit and measure of lengths."""
    from rubric_arm_lite.config import ModelSettings, Recipe
    from rubric_arm_lite.prompts import PromptBuilder, Templates
    from rubric_arm_lite.recipe_file import load_recipe

    loaded = Recipe() if recipe is None else load_recipe(recipe)
    templates = Templates.load(loaded.prompts.rubric_template, loaded.prompts.judge_template)
    if model is None and recipe is None:
        return PromptBuilder(templates), "words", lambda text: len(text.split())
    quiet_libraries()
    from rubric_arm_lite.backends.chat import control_tokens
    from rubric_arm_lite.backends.loader import load_tokenizer

    settings = loaded.model if model is None else ModelSettings(base=model)
    tokenizer = load_tokenizer(settings)
    builder = PromptBuilder(templates, control_tokens(tokenizer))
    # Lengths beyond what the model takes are wanted here, so the tokenizer's warning about them is not.
    return builder, "tokens", lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def pair_text(pair: PreferencePair, builder: PromptBuilder) -> str:
    """A pair as the models will see it."""
    return _sections(
        ("the generator's prompt", builder.rubric_prompt(pair.prompt)),
        ("chosen", builder.neutralise(pair.chosen)),
        ("rejected", builder.neutralise(pair.rejected)),
    )


def trajectory_text(row: WarmupRow, builder: PromptBuilder) -> str:
    """A trajectory with the prompts that lead to it."""
    from rubric_arm_lite.parsing import parse_rubric

    rubric = parse_rubric(row.rubric)
    if not rubric.usable:
        prompt = "(The rubric does not parse: this row teaches the generator only.)"
    elif row.response_b is None:
        prompt = builder.pointwise_prompt(row.prompt, rubric, row.response_a)
    else:
        prompt = builder.judge_prompt(row.prompt, rubric, row.response_a, row.response_b)
    return _sections(
        ("the generator's prompt", builder.rubric_prompt(row.prompt)),
        ("its rubric", row.rubric),
        ("the judge's prompt", prompt),
        ("its judgement", row.judgement),
    )


def _sections(*parts: tuple[str, str]) -> str:
    return "\n".join(f"=== {name} ===\n{text.strip()}" for name, text in parts)


def print_survey(survey: Survey, what: str) -> None:
    """Counts, facts, lengths and subsets of ``what``: pairs or trajectories."""
    from rich.markup import escape
    from rich.table import Table

    from rubric_arm_lite.report_data import safe_text
    from rubric_arm_lite.sources.survey import QUANTILES

    print(survey.counts.line(what))
    print(f"form: {survey.counts.form}")
    for name, value in survey.facts.items():
        print(f"{name.replace('_', ' ')}: {value if isinstance(value, int) else round(value, 3)}")
    table = Table(survey.unit, *(_quantile_name(share) for share in QUANTILES), box=None, pad_edge=False)
    for kind, values in survey.lengths.items():
        table.add_row(kind, *(f"{value:,}" for value in values))
    out.print(table)
    named: Sequence[tuple[str, int]] = [(name, count) for name, count in survey.subsets.items() if name]
    if named:
        out.print(
            "subsets: " + ", ".join(f"{escape(safe_text(name))} {count:,}" for name, count in named[:40]),
            highlight=False,
        )


def _quantile_name(share: float) -> str:
    return {0.5: "median", 1.0: "longest"}.get(share, f"{share:.0%}")
