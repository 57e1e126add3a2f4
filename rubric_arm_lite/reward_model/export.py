"""Export a run's adapters as PEFT folders or merged checkpoints with model cards, and upload them to the Hub.

Input: a run directory. Output: ``TARGET/rubric``, ``TARGET/judge`` and ``TARGET/recipe.yaml``. A card states the
data, the results, the recipe and the versions, and shows how to load the model.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from contextlib import ExitStack
from pathlib import Path

from rubric_arm_lite.errors import BackendError, ConfigError, first_line
from rubric_arm_lite.models import load_for_trainer, load_tokenizer, other_base
from rubric_arm_lite.recipe import ModelSettings, Recipe, dump_recipe, is_plugin
from rubric_arm_lite.runs import RECIPE, adapter_folder, explained_disk_errors, read_object, recipe_of_run, share
from rubric_arm_lite.types import ROLES, Role

SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model", ".md", ".yaml")
REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
CARD = Path(__file__).with_name("templates") / "model_card.md.jinja"


def export_run(run: Path, target: Path, state: str = "final", merge: bool = False) -> list[Path]:
    """Write both roles of a run into ``target``, which must be new or empty, and return their folders.

    Raises:
        CheckpointError: if the run has not reached the state, or a file of it cannot be read.
        ConfigError: if the target is in use.
        BackendError: if there is no such state, or the base cannot be loaded for merging.
    """
    recipe, place = recipe_of_run(run), Path(os.path.realpath(target))  # not the link, nor a name such as `.`
    adapters = {role: adapter_folder(run, role, state) for role in ROLES}
    there = place.exists()
    if there and (not place.is_dir() or any(path.name != ".draft" for path in place.iterdir())):
        raise ConfigError(f"{target} exists and is not empty. Name a new folder; nothing was written.")
    draft = place / ".draft" if there else place.with_name(f".{place.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    with ExitStack() as stack:
        stack.enter_context(explained_disk_errors(target, "export again"))
        stack.callback(shutil.rmtree, draft, ignore_errors=True)
        for role, adapter in adapters.items():
            folder = draft / role
            folder.mkdir(parents=True)
            if merge:
                write_merged(recipe.model, adapter, folder)
            else:
                for name in ("adapter_config.json", "adapter_model.safetensors"):
                    shutil.copyfile(adapter / name, folder / name)
            (folder / "README.md").write_text(model_card(run, recipe, role, state, merge), "utf-8")
        (draft / "recipe.yaml").write_text(dump_recipe(recipe), "utf-8")
        if merge and (difference := other_base(run, recipe.model)):
            warnings.warn(difference, stacklevel=2)
        share(draft)
        if there:  # it may be the working directory, or a mounted disk
            for path in draft.iterdir():
                path.rename(place / path.name)
        else:
            draft.rename(place)
    return [target / role for role in ROLES]


def write_merged(settings: ModelSettings, adapter: Path, folder: Path) -> None:
    """Merge a saved adapter into the unquantized base and write the result as safetensors.

    A base that was trained on in 4 bits is merged in its own precision: what quantization rounded away comes back, so
    the merged model is not the trained one to the last bit.

    Raises:
        BackendError: if the base cannot be loaded, or the adapter does not fit it.
    """
    unquantized = settings.model_copy(update={"quantization": "none"})
    model = load_for_trainer(unquantized, adapter).merge_and_unload(safe_merge=True)
    model.save_pretrained(folder, safe_serialization=True)
    load_tokenizer(unquantized).save_pretrained(folder)


def model_card(run: Path, recipe: Recipe, role: Role, state: str, merge: bool) -> str:
    """The model card of one role as Markdown; a CheckpointError if a file of the run cannot be read."""
    from huggingface_hub import ModelCard, ModelCardData

    files = [run / name for name in ("data.json", "summary.json", "versions.json")]
    data, summary, versions = (read_object(file) if file.exists() else {} for file in files)
    counts = [f"{data[k]} {k.replace('_', ' ')}" for k in ("train_prompts", "train_pairs", "test_pairs") if k in data]
    base = recipe.model.base
    names = (
        recipe.reward.function,
        recipe.phases.judge,
        recipe.phases.rubric,
        recipe.data.format,
        recipe.warmup.format,
    )
    on_hub = REPO.fullmatch(base) is not None and not Path(base).exists()
    metadata = ModelCardData(
        base_model=base if on_hub else None,  # the Hub refuses a card whose base is a folder
        library_name="transformers" if merge else "peft",
        pipeline_tag="text-generation",
        tags=["rubric-arm", "reward-model", *([] if merge else ["lora"])],
    )
    card = ModelCard.from_template(
        metadata,
        template_path=str(CARD),
        recipe=recipe,
        base=base,
        role=role,
        merge=merge,
        plugins=any(is_plugin(name) for name in names if name),  # code of the training, which is not exported
        state=state,
        source=Path(recipe.data.source).name,
        counts=", ".join(counts),
        results=summary if state == "final" else {},
        recipe_text=dump_recipe(recipe).rstrip().replace("```", "'''"),
        versions=versions,
    )
    return str(card.content)


def files_to_push(folder: Path, repo: str) -> list[Path]:
    """The files of an export, sorted, once the folder and the repository's name are checked.

    Raises:
        ConfigError: if ``repo`` is not ``owner/name``, or the folder is no export or holds anything else.
    """
    if not REPO.fullmatch(repo) or ".." in repo:
        raise ConfigError(f"{repo!r} is no repository. Give owner/name, such as me/my-judge.")
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder. Make one with rubric-arm export RUN {folder}.")
    if (folder / RECIPE).is_file() and not (folder / "rubric" / "README.md").is_file():  # an export has a recipe too
        raise ConfigError(f"{folder} is a run directory. Export it first: rubric-arm export {folder} TARGET.")
    files = []
    for path in sorted([folder, *folder.rglob("*")]):
        if not path.is_symlink() and not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
            raise ConfigError(f"{path} cannot be read. Check its permissions.")
        if path.is_dir() and (path == folder or not path.is_symlink()):
            continue
        files.append(path)
        if path.is_symlink() or not path.is_file() or path.suffix not in SUFFIXES:
            allowed = f"only plain files that end in {', '.join(SUFFIXES)} are"
            raise ConfigError(f"{path} is not uploaded: {allowed}. Take it out of the folder.")
    if not {"README.md", ".safetensors"} <= {path.name for path in files} | {path.suffix for path in files}:
        raise ConfigError(
            f"{folder} is no export: it lacks a model card or weights. Make one with rubric-arm export RUN TARGET."
        )
    return files


def push_to_hub(folder: Path, repo: str, private: bool = True) -> str:
    """Create the repository if it does not exist, upload the folder in one commit, and return the commit's URL.

    Raises:
        ConfigError: if the folder or the repository's name cannot be used.
        BackendError: if the Hub refuses, or cannot be reached.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    files = [path.relative_to(folder).as_posix() for path in files_to_push(folder, repo)]
    try:
        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=files, commit_message="Upload from rubric-arm-lite"
        )
    except LocalTokenNotFoundError as error:
        raise BackendError("The Hub needs a token. Log in with hf auth login, or set HF_TOKEN.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        hint = "Check that the token may write there." if status in (401, 403) else "Try again later."
        hint = "Correct what it names." if status in (400, 413, 422) else hint
        reason = f": {_one_line(error.server_message)}" if error.server_message else ""
        raise BackendError(f"The Hub refused {repo} ({status}{reason}). {hint}") from error
    except (httpx.HTTPError, OSError, ValueError, KeyError) as error:  # KeyError: the answer is not a Hub's
        if isinstance(error.__cause__, HfHubHTTPError):  # the card was refused; the text has the Hub's reasons
            raise BackendError(f"The Hub refused {repo} ({_one_line(str(error))}). Correct what it names.") from error
        raise BackendError(
            f"{repo} cannot be uploaded ({first_line(error)[:200]}). Check the connection and HF_ENDPOINT."
        ) from error
    return str(commit.commit_url)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]
