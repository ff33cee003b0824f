"""What people read on a terminal and in a log: any name may stand in it, and none of them acts. It needs no torch: everyone may use it."""

import os
import re
import sys
import traceback
from io import TextIOWrapper

from tqdm import tqdm

UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, what turns the direction of writing, other line breaks, and the bytes of names that are no UTF-8."""

OUR_BREAK = re.compile("\n(?=  )")


def prepare() -> None:
    """To be called first by every script: what the terminal's encoding cannot show is written as \\u..., instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # None without a console, under pythonw
            stream.reconfigure(errors="backslashreplace")


def one_line(text: str) -> str:
    """text as one line of characters that can be seen: \\n, \\x1b, \\u202e ... stand for the others."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def shown(message: str) -> str:
    """A message as `one_line`, but for line breaks before an indented line, which are ours: no name can begin a line of its own."""
    return "\n".join(map(one_line, OUR_BREAK.split(message)))


def say(*messages: object, error: bool = False) -> None:
    """Prints messages, each on lines of its own (see `shown`), above progress bars. error: to stderr.

    Where nobody can read them any more (`| head`, a full disk), they are lost and the work goes on.
    """
    stream = sys.stderr if error else sys.stdout
    if stream is None:
        return
    try:
        tqdm.write("\n".join(shown(str(message)) for message in messages), file=stream)
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # else the end of the program fails once more, at its own flush


def say_traceback(error: BaseException) -> None:
    """All of an error that is no user's mistake, to stderr."""
    say(*"".join(traceback.format_exception(error)).rstrip().split("\n"), error=True)
