"""A run's adapters for others: PEFT folders or merged checkpoints, each with a model card.

Enter: a run directory. Leave: ``TARGET/rubric``, ``TARGET/judge`` and the recipe. The card says what was
trained on what, what was measured, with which recipe and versions, and how to load it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from rubric_arm_lite.config import Recipe
from rubric_arm_lite.errors import CheckpointError, ConfigError
from rubric_arm_lite.recipe_file import dump_recipe
from rubric_arm_lite.run_states import adapter_folder, recipe_of_run
from rubric_arm_lite.types import ROLES, Role

MEASURED = (
    ("accuracy", "accuracy, both orders"),
    ("position_bias", "position bias"),
    ("consistency", "both orders agree"),
    ("tie_rate", "ties"),
    ("margin", "mean margin of scores"),
    ("unparsed", "unparsed verdicts"),
    ("format_sampled", "well-formed, sampled"),
    ("rubric_criteria", "criteria per rubric"),
    ("pairs", "held-out pairs"),
)
WHAT: dict[Role, str] = {
    "rubric": "writes a rubric, a numbered list of criteria, for a request",
    "judge": "compares two responses to a request under a rubric and names the better one",
}
POINTWISE_JUDGE = "checks one response to a request against every criterion of a rubric (RUBRIC-ARROW, 2605.29156)"


def export(run: Path, target: Path, state: str = "final", merge: bool = False) -> list[Path]:
    """Write both roles of a run into ``target``, which must be new or empty; returns their folders.

    Raises:
        CheckpointError: if the run has not come that far.
        ConfigError: if the target is in use.
    """
    recipe = recipe_of_run(run)
    sources = {role: adapter_folder(run, role, state) for role in ROLES}
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists and is not empty. Name a new folder; nothing was written.")
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        for role in ROLES:
            folder = draft / role
            folder.mkdir(parents=True)
            if merge:
                from rubric_arm_lite.backends.merge import write_merged

                write_merged(recipe.model, sources[role], folder)
            else:
                for name in ("adapter_config.json", "adapter_model.safetensors"):
                    shutil.copyfile(sources[role] / name, folder / name)
            (folder / "README.md").write_text(card(run, recipe, role, state, merge), "utf-8")
        (draft / "recipe.yaml").write_text(dump_recipe(recipe), "utf-8")
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    if target.exists():
        target.rmdir()
    draft.rename(target)
    return [target / role for role in ROLES]


def card(run: Path, recipe: Recipe, role: Role, state: str, merge: bool) -> str:
    """The model card of one role."""
    base, name = recipe.model.base, f"{recipe.name}-{role}"
    header = {
        "base_model": base,
        "library_name": "transformers" if merge else "peft",
        "pipeline_tag": "text-generation",
        "tags": ["rubric-arm", "reward-model", *([] if merge else ["lora"])],
    }
    what = POINTWISE_JUDGE if role == "judge" and recipe.reward.judge == "pointwise" else WHAT[role]
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in header.items()), "---", f"# {name}", ""]
    lines += [
        f"One of the two models of Rubric-ARM (arXiv 2602.01511): it {what}. "
        f"{'Merged into' if merge else 'A LoRA adapter for'} `{base}`, state `{state}`, made with rubric-arm-lite "
        f"{_read(run / 'versions.json').get('rubric-arm-lite', '')}.",
        "",
        "## Use",
        "```python",
        *_usage(recipe, role, merge),
        "```",
        "Prompts must be written as in training: `rubric_arm_lite.prompts.PromptBuilder` with the recipe's templates.",
        "",
        "## Data",
        *_data(run, recipe),
        "",
        "## Measured",
        *_measured(run, state),
        "",
        "## Recipe",
        "```yaml",
        dump_recipe(recipe).rstrip().replace("```", "'''"),
        "```",
        "",
        "## Versions",
        *(f"- {key}: {value}" for key, value in _read(run / "versions.json").items() if value is not None),
    ]
    return "\n".join(lines) + "\n"


def _usage(recipe: Recipe, role: Role, merge: bool) -> list[str]:
    shipped = recipe.model.base == "testbed"
    base = "base_folder()" if shipped else json.dumps(recipe.model.base)
    if merge:
        return [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f'model = AutoModelForCausalLM.from_pretrained("{role}")',
            f'tokenizer = AutoTokenizer.from_pretrained("{role}")',
            "# both roles, as they were trained to be asked:",
            "from rubric_arm_lite.recipe_file import load_recipe",
            "from rubric_arm_lite.reward_model import RubricRewardModel",
            "",
            'pair = RubricRewardModel.from_pretrained("rubric", "judge", load_recipe("recipe.yaml"))',
        ]
    return [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        *(["from rubric_arm_lite.testbed import base_folder"] if shipped else []),
        "",
        f'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base}), "{role}")',
        "# both roles on one base:",
        "from rubric_arm_lite.recipe_file import load_recipe",
        "from rubric_arm_lite.reward_model import RubricRewardModel",
        "",
        'pair = RubricRewardModel.from_adapters(load_recipe("recipe.yaml"), "rubric", "judge")',
    ]


def _data(run: Path, recipe: Recipe) -> list[str]:
    found = _read(run / "data.json")
    counts = [
        f"{found[key]} {key.replace('_', ' ')}"
        for key in ("train_prompts", "train_pairs", "test_pairs")
        if key in found
    ]
    return [f"`{Path(recipe.data.source).name}`: {', '.join(counts) or 'not recorded'}."]


def _measured(run: Path, state: str) -> list[str]:
    summary = _read(run / "summary.json")
    if state != "final" or not summary:
        return [f"Nothing is recorded for the state `{state}`."]
    rows = [f"| {label} | {summary[key]:.3f} |" for key, label in MEASURED if key in summary]
    low, high = summary.get("accuracy_low"), summary.get("accuracy_high")
    interval = (
        [f"| accuracy, 95 % interval | {low:.3f} to {high:.3f} |"] if low is not None and high is not None else []
    )
    return ["| | |", "|---|---|", *rows, *interval, "", "On the run's own held-out pairs."]


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}. Restore it, or finish the run again.") from error
    return found if isinstance(found, dict) else {}
