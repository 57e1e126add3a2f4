"""A run's adapters for others: PEFT folders or merged checkpoints, each with a model card.

Enter: a run directory. Leave: ``TARGET/rubric``, ``TARGET/judge`` and the recipe. The card says what was
trained on what, what was measured, with which recipe and versions, and how to load it.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from rubric_arm_lite.errors import BackendError, CheckpointError, ConfigError, first_line
from rubric_arm_lite.models import load_for_trainer, load_tokenizer
from rubric_arm_lite.recipe import ModelSettings, Recipe, dump_recipe
from rubric_arm_lite.runs import adapter_folder, recipe_of_run
from rubric_arm_lite.types import ROLES, Role


def write_merged(settings: ModelSettings, adapter: Path, folder: Path) -> None:
    """Merge a saved adapter into the base as it is before any quantisation, and write it as safetensors.

    A base that was trained on in 4 bits is merged in its own precision: what quantisation rounded away comes back, so
    the merged model is not the trained one to the last bit.

    Raises:
        BackendError: if the base cannot be loaded or the adapter is none of its own.
    """
    whole = settings.model_copy(update={"quantization": "none"})
    model = load_for_trainer(whole, adapter).merge_and_unload(safe_merge=True)
    model.save_pretrained(folder, safe_serialization=True)
    load_tokenizer(whole).save_pretrained(folder)


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
                # DROPPED

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
        "Write prompts as in training: `rubric_arm_lite.prompts.PromptBuilder` with the recipe's templates.",
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
            "from rubric_arm_lite.recipe.load import load_recipe",
            "from rubric_arm_lite.reward_model.model import RubricRewardModel",
            "",
            'pair = RubricRewardModel.from_pretrained("rubric", "judge", load_recipe("recipe.yaml"))',
        ]
    return [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        *(["from rubric_arm_lite.data.testbed import base_folder"] if shipped else []),
        "",
        f'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base}), "{role}")',
        "# both roles on one base:",
        "from rubric_arm_lite.recipe.load import load_recipe",
        "from rubric_arm_lite.reward_model.model import RubricRewardModel",
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


SENT = (".safetensors", ".json", ".jinja", ".txt", ".model", ".md", ".yaml")
REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def files_of(folder: Path) -> list[Path]:
    """What would be sent, sorted.

    Raises:
        ConfigError: if the folder is no export, or holds something that does not belong in one.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder. Make one with rubric-arm export RUN {folder}.")
    found = sorted(path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    for path in found:
        if path.is_symlink() or path.suffix not in SENT:
            raise ConfigError(
                f"{path} is not sent: only plain files that end in {', '.join(SENT)} are. Take it out of the folder."
            )
    names = {path.name for path in found}
    if "README.md" not in names or not any(path.suffix == ".safetensors" for path in found):
        raise ConfigError(
            f"{folder} has no model card and weights, so it is no export. Make one with rubric-arm export RUN TARGET."
        )
    return found


def push(folder: Path, repo: str, private: bool = True) -> str:
    """Create the repository if there is none, and upload the folder in one commit; returns the commit's address.

    Raises:
        ConfigError: if the folder or the repository's name cannot be used.
        BackendError: if the Hub refuses, or cannot be reached.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    check_repo(repo)
    sent = [path.relative_to(folder).as_posix() for path in files_of(folder)]
    try:
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=sent, commit_message="Upload from rubric-arm-lite"
        )
    except LocalTokenNotFoundError as error:
        raise BackendError("The Hub needs a token. Log in with hf auth login, or set HF_TOKEN.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        hint = "Check that the token may write there." if status in (401, 403) else "Try again later."
        raise BackendError(f"The Hub refused {repo} ({status}). {hint}") from error
    except (httpx.HTTPError, OSError, ValueError, KeyError) as error:  # the last from an answer that is no Hub's
        raise BackendError(
            f"{repo} cannot be uploaded ({first_line(error)[:200]}). Check the connection and HF_ENDPOINT."
        ) from error
    return str(done.commit_url)


def check_repo(repo: str) -> None:
    """Refuse a name that is no ``owner/name``."""
    if not REPO.fullmatch(repo) or ".." in repo:
        raise ConfigError(f"{repo!r} is no repository. Give owner/name, such as me/my-judge.")
