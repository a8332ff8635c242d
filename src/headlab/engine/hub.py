"""Whether a name is a folder or a hub id, and whether the hub can be asked for it: nothing here loads a model's library."""

from __future__ import annotations

from pathlib import Path

PATIENCE = 3.0
"""Seconds in which the hub must answer when it is asked whether it is there."""


def is_local(name: str) -> bool:
    """Whether a name is that of a folder and not a hub id."""
    return Path(name).expanduser().exists() or name.startswith((".", "/", "~")) or name.count("/") > 1


def within_reach(name: str) -> bool:
    """False when a hub id is not in the local cache and the hub does not answer; what it answers is for the download to
    say."""
    if is_local(name):
        return True
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.file_download import repo_folder_name

    if (Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "snapshots").is_dir():
        return True
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        HfApi().model_info(name, timeout=PATIENCE)
    except (HfHubHTTPError, HFValidationError):
        return True  # it answered
    except Exception:  # no network: each library that may stand underneath has an error of its own for it
        return False
    return True


def no_way_to(name: str) -> str:
    """What is said when a hub id is neither here nor to be had."""
    return (
        f"cannot reach the hub for {name!r} and it is not in the local cache; check the network, or give a local folder or "
        "a shipped organism (headlab models)"
    )
