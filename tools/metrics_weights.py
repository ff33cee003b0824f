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
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.console import prepare, say
from scoring.metric_weights import use_cache


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--metrics", nargs="+", action="extend", default=[], metavar="METRIC", help="pyiqa's names (default: those of tools/score.py)")
    add("--cache", metavar="FOLDER", help="a folder of all weights, for the same option of tools/score.py (default: the user's caches)")
    add("--check", action="store_true", help="check only, download nothing")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    prepare()
    args = parse_args(argv)
    if args.cache:
        use_cache(args.cache)
    try:
        from tools.comparing.weights import fetch  # late: torch; and the hub's client reads its folders once

        return fetch(args.metrics, check=args.check)
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here", error=True)
        return 130
    except (ValueError, OSError) as error:
        say(f"metrics_weights.py: {error}", error=True)
        return 2


if __name__ == "__main__":
    sys.exit(main())
