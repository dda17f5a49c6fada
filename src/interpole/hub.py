"""Upload a saved folder to the Hugging Face hub. Who is logged in is asked first, so that no hours of work end in an error."""

from __future__ import annotations

from pathlib import Path

from interpole.errors import OutputError

__all__ = ["check_login", "push"]

REMEDY = "log in with `hf auth login`, or set HF_TOKEN to a token that may write; check the name (owner/name) and your network"


def check_login(repo: str) -> None:
    """Check that somebody is logged in.

    Raises:
        OutputError: nobody is, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().whoami()
    except Exception as error:  # a library's, an HTTP client's or the system's: all mean that an upload cannot work
        raise OutputError(f"cannot upload: {first_line(error)}", repo, REMEDY) from error


def push(folder: Path, repo: str) -> str:
    """Upload `folder`, model card included, to the repository `repo`, which is made where it does not exist.

    Returns:
        The address of the upload.

    Raises:
        OutputError: the hub refuses; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repo, exist_ok=True)
        done = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Merge made with Interpole")
    except Exception as error:
        raise OutputError(f"cannot upload {folder}: {first_line(error)}", repo, REMEDY) from error
    return str(done)


def first_line(error: Exception) -> str:
    """What an error says, without its trail."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
