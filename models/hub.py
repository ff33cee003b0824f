"""Files in a repository on the Hugging Face hub, or in its cache on this machine."""

import functools
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

PATIENCE = 5.0
"""Seconds to wait for the hub's first answer."""


@functools.cache
def answers() -> bool:
    """Whether the hub can be reached, asked once and for `PATIENCE` seconds: its own client asks for half a minute, for every file anew."""
    if constants.HF_HUB_OFFLINE:
        return True  # nobody is asked then
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception:  # of one HTTP library or another, as the client's version has it
        return False
    return True


def find(source: str, names: tuple[str, ...], subfolder: str, revision: str | None, *, only_cached: bool) -> Path | str:
    """The file in the hub's cache, or why there is none."""
    reason = "no such file in the repository"
    silence = f"no such folder here, and the hub cannot be reached ({_silence()}) and its cache has no copy"
    for name in names:
        try:
            if not only_cached:
                return Path(huggingface_hub.hf_hub_download(source, name, subfolder=subfolder, revision=revision))
            # By no function of the hub's that may ask: its client would ask for other things, too.
            cached = huggingface_hub.try_to_load_from_cache(source, "/".join(filter(None, (subfolder, name))), revision=revision)
            if isinstance(cached, str):
                return Path(cached)
            reason = silence
        except RepositoryNotFoundError:
            return "no such folder here and no such repository on the hub (or it is private)"
        except LocalEntryNotFoundError:
            reason = silence
            only_cached = True  # who was not there for one name is not asked for the next
        except EntryNotFoundError:
            continue
        except HFValidationError:
            return "there is no such folder, and no repository on the hub can have this name"
        except (HfHubHTTPError, OSError) as error:
            return f"no such folder here, and the hub answered: {error}"
    return reason


def _silence() -> str:
    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} did not answer; HF_HUB_OFFLINE=1 asks no more"
