"""Brings the weights of metrics to this machine. To be imported after `use_cache`: the hub's client reads its folders once."""

import os
import sys
from collections.abc import Sequence

import torch
from huggingface_hub import hf_hub_download

from data.console import say
from scoring.methods import DEFAULT
from scoring.metric_weights import WeightFile, cached_path, files_of, how_to_get, read_record, relative, state_of, write_record


def fetch(metrics: Sequence[str], *, check: bool) -> int:
    """Downloads what is missing, unless only to `check`, says what is there, records it. Returns the exit status."""
    recorded, states = read_record(), []
    for file in files_of(metrics or DEFAULT):
        state, failure = state_of(file, recorded), ""
        if state.sha256 is None and not check:
            say(f"downloading {file.url}")
            failure = download(file)
            state = state_of(file, recorded)
        states.append(state)
        if state.problem:
            say(f"{state.path}: {failure or state.problem.upper()}\n  get {how_to_get(file)}", error=True)
        else:
            known = "as recorded" if relative(state.path) in recorded else "none published to compare with"
            proof = "as published" if file.sha256 else known
            say(f"{state.path}: SHA-256 {state.sha256}, {proof}")
    wrong = [state for state in states if state.problem]
    say(f"{len(states) - len(wrong)} of {len(states)} files are there and as they should be")
    if len(wrong) < len(states):
        say(f"recorded in {write_record(states)}")
    return int(bool(wrong))


def download(file: WeightFile) -> str:
    """Brings one file to where it belongs, whole or not at all. Returns why that failed, or nothing."""
    try:
        if file.folder is None:
            hf_hub_download(file.url.removesuffix(f"/{file.name}"), file.name)
            return ""
        path = cached_path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(file.url, str(path), hash_prefix=file.sha256 or None, progress=sys.stderr.isatty())
    except (OSError, RuntimeError) as error:  # no network, full disk; or the hash of what arrived
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        offline = " (HF_HUB_OFFLINE is set)" if file.folder is None and os.environ.get("HF_HUB_OFFLINE") else ""
        return f"cannot be downloaded: {reason}{offline}"
    return ""
