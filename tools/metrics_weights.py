#!/usr/bin/env python
"""Downloads the weights of the metrics once, checks them, and records what they are; or only checks them.

    python tools/metrics_weights.py                                all metrics of tools/score.py, into the user's caches
    python tools/metrics_weights.py --check                        nothing is downloaded
    python tools/metrics_weights.py --metrics lpips dists niqe --cache FOLDER      FOLDER can be copied to a machine without a network

pyiqa takes whatever lies in its cache. Here the SHA-256 of every file is compared with the published one where there is one, with the
recorded one otherwise, and written to SHA256SUMS beside the files (`sha256sum -c` reads it, too).

Exit status: 0 all there and as they should be; 1 some are missing or wrong; 2 a mistake; 130 Ctrl-C (what is there stays).
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from scoring.metric_weights import WeightFile


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--metrics", nargs="+", action="extend", default=[], metavar="METRIC", help="pyiqa's names (default: those of tools/score.py)")
    add("--cache", metavar="FOLDER", help="a folder of all weights, for the same option of tools/score.py (default: the user's caches)")
    add("--check", action="store_true", help="check only, download nothing")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.cache:
        from scoring.metric_weights import use_cache

        use_cache(args.cache)
    try:
        return run(args)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"metrics_weights.py: {error}", file=sys.stderr)
        return 2


def run(args: argparse.Namespace) -> int:
    """Downloads what is missing, says what is there, records it. Returns the exit status."""
    from scoring.methods import DEFAULT
    from scoring.metric_weights import files_of, how_to_get, read_record, relative, state_of, write_record

    recorded, states = read_record(), []
    for file in files_of(args.metrics or DEFAULT):
        state, failure = state_of(file, recorded), ""
        if state.sha256 is None and not args.check:
            print(f"downloading {file.url}", flush=True)
            failure = download(file)
            state = state_of(file, recorded)
        states.append(state)
        if state.problem:
            print(f"{state.path}: {failure or state.problem.upper()}\n  get {how_to_get(file)}", file=sys.stderr)
        else:
            known = "as recorded" if relative(state.path) in recorded else "none published to compare with"
            proof = "as published" if file.sha256 else known
            print(f"{state.path}: SHA-256 {state.sha256}, {proof}")
    wrong = [state for state in states if state.problem]
    print(f"{len(states) - len(wrong)} of {len(states)} files are there and as they should be")
    if len(wrong) < len(states):
        print(f"recorded in {write_record(states)}")
    return int(bool(wrong))


def download(file: "WeightFile") -> str:
    """Brings one file to its place, whole or not at all. Returns why that failed, or nothing."""
    from scoring.metric_weights import place_of

    try:
        if file.folder is None:
            from huggingface_hub import hf_hub_download

            hf_hub_download(file.url.removesuffix(f"/{file.name}"), file.name)
            return ""
        import torch

        place = place_of(file)
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(file.url, str(place), hash_prefix=file.sha256 or None, progress=sys.stderr.isatty())
    except (OSError, RuntimeError) as error:  # no network, full disk; or the hash of what arrived
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        offline = " (HF_HUB_OFFLINE is set)" if file.folder is None and os.environ.get("HF_HUB_OFFLINE") else ""
        return f"cannot be downloaded: {reason}{offline}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
