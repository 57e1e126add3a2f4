"""Send an exported folder to the Hub, or say what would be sent.

Only what a model repository needs is sent: safetensors, JSON, templates, tokenizer files and the card. Anything else in
the folder, a pickle above all, is refused rather than left out in silence.
"""

from __future__ import annotations

import re
from pathlib import Path

from rubric_arm_lite.errors import BackendError, ConfigError, first_line

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
