"""Where a source lies: a folder, or a Hugging Face hub id through the `hf` cache, whole or without its weights; and uploads.

Who uploads is asked to be logged in before the work, so that no hours of it end in an error.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

from interpole.checkpoints.safetensors import DTYPES, TensorSpec
from interpole.errors import CheckpointError, OutputError
from interpole.files import StrPath

__all__ = ["NO_ASSETS", "check_login", "fetch_headers", "from_hub", "is_hub_id", "locate", "push", "resuming"]

NO_ASSETS = (
    *(
        "*.safetensors",
        "*.index.json",
        "*.bin",
        "*.pt",
        "*.pth",
        "*.ckpt*",
        "*.h5",
        "*.msgpack",
        "*.ot",
        "*.npz",
        "*.pkl",
    ),
    *(
        "*.gguf",
        "*.ggml",
        "*.onnx",
        "*.onnx_data",
        "*.tflite",
        "*.mlmodel",
        "*.zip",
        "*.tar",
        "*.gz",
        "*.zst",
        "*.parquet",
    ),
    *("*.png", "*.jpg", "*.jpeg", "*.gif", "*.webp", "*.svg", "*.pdf", "*.mp4", "*.log", "*.tfevents*", "*.ipynb"),
    *("trainer_state.json", "training_args.*", "all_results.json", "train_results.json", "eval_results.json"),
    *("adapter_config.json", "mergekit_config.yml", "interpole_recipe.yml"),
    *(".*", "*/.*", "checkpoint-*/*", "original/*", "onnx/*", "runs/*", "logs/*", "__pycache__/*", "*/__pycache__/*"),
)
"""What is no asset of a model: weights in any format, archives, pictures, what training left, hidden files. All else is one."""
LOGIN_REMEDY = "log in with `hf auth login`, or set HF_TOKEN to a token that may write; check the name and your network"


def locate(source: StrPath, revision: str | None = None, *, weights: bool = True) -> Path:
    """The folder of a source; a hub id is downloaded into the `hf` cache, if it is not there, with or without its weights.

    Raises:
        CheckpointError: nothing is there, or it cannot be downloaded.
    """
    path = Path(source).expanduser()
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise CheckpointError(f"cannot look for a folder of this name: {error.strerror}", str(source)[:200]) from None
    if is_folder:
        return path
    if exists:
        raise CheckpointError("a checkpoint is a folder, this is a file", path, f"give the folder: {path.parent}")
    if not is_hub_id(source):
        beside = f"; there is a folder {path.parent} here, so this is no hub id" if path.parent != Path() else ""
        raise CheckpointError(
            f"no such folder: {source}{beside if path.parent.is_dir() else ''}",
            remedy="give an existing folder or a hub id (owner/name)",
        )
    return _download(str(source), revision, weights=weights)


def is_hub_id(source: StrPath) -> bool:
    """Whether `source` is `owner/name`, and no path: neither `./name` nor below a folder that is here."""
    named = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w-][\w.-]*", str(source))
    return named is not None and not Path(source).parent.is_dir()


def fetch_headers(repo: str, commit: str) -> tuple[dict[str, TensorSpec], dict[str, str]]:
    """What the headers of all weight files say, and which file each tensor is in: a few range requests.

    Raises:
        CheckpointError: it cannot be fetched, or holds numbers of a kind that is not read.
    """
    from huggingface_hub import get_safetensors_metadata

    with from_hub(repo, commit):
        files = get_safetensors_metadata(repo, revision=commit).files_metadata
    entries = [
        (file, info.data_offsets, name, TensorSpec(str(info.dtype), tuple(info.shape)))
        for file, content in files.items()
        for name, info in content.tensors.items()
    ]
    specs, layout = {}, {}
    for file, _, name, spec in sorted(entries, key=lambda entry: entry[:2]):
        if spec.dtype not in DTYPES:
            raise CheckpointError(
                f"tensor {name} of {repo} is {spec.dtype}, which is not read", file, "take it in bf16"
            )
        specs[name], layout[name] = spec, file
    return specs, layout


def _download(repo: str, revision: str | None, *, weights: bool) -> Path:
    from huggingface_hub import snapshot_download

    with from_hub(repo, revision):
        folder = snapshot_download(repo, revision=revision, ignore_patterns=[*NO_ASSETS])
        patterns = ["model.safetensors.index.json", "adapter_config.json"]
        patterns += ["model*.safetensors", "adapter_model.safetensors"] if weights else []
        return Path(snapshot_download(repo, revision=Path(folder).name, allow_patterns=patterns))


@contextmanager
def from_hub(repo: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's library raises into a `CheckpointError`."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        NotASafetensorsRepoError,
        SafetensorsParsingError,
    )

    expected = (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError)
    try:
        yield
    except (*expected, NotASafetensorsRepoError, SafetensorsParsingError) as error:
        reason = shorten(str(error), 200, placeholder=" …")
        raise CheckpointError(
            f"cannot get {repo} (revision {revision or 'main'}) from the hub, and no folder is called so: {reason}",
            remedy="check the id and your network; gated models need `hf auth login`; offline, fetch it before",
        ) from error


def check_login(repo: str) -> None:
    """Check that somebody is logged in.

    Raises:
        OutputError: nobody is, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().whoami()
    except Exception as error:  # a library's, an HTTP client's or the system's: all mean that an upload cannot work
        raise OutputError(f"cannot upload: {_first_line(error)}", repo, LOGIN_REMEDY) from error


def push(folder: StrPath, repo: str) -> str:
    """Upload `folder`, model card included, to the repository `repo`, which is made where it does not exist.

    The hub's library commits in batches, and skips what is there: an upload that was interrupted goes on where it stopped.

    Returns:
        The address of the upload.

    Raises:
        OutputError: the hub refuses; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repo, exist_ok=True)
        done = api.upload_folder(repo_id=repo, folder_path=Path(folder), commit_message="Merge made with Interpole")
    except Exception as error:
        remedy = f"go on where it stopped: {resuming(folder, repo)}; if it was refused, {LOGIN_REMEDY}"
        raise OutputError(f"cannot upload {folder}: {_first_line(error)}", repo, remedy) from error
    return str(done)


def resuming(folder: StrPath, repo: str) -> str:
    """The command that goes on with an upload of `push`, however that ended; it is one of the hub's library."""
    return shlex.join(["hf", "upload", repo, str(folder)])


def _first_line(error: Exception) -> str:
    """What an error says, without its trail."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
