"""No name acts on a terminal or in a log, and no encoding or reader that is gone ends a program."""

import io
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from data.console import one_line, prepare, say, say_traceback, shown

ROOT = Path(__file__).resolve().parents[2]
NASTY = "a\x1b[2J\x07\n2026-01-01 00:00:00 INFO: saved\r\x9b31m\x7f\u202egnp.exe\u2069\u2028\udcff.png"


def test_a_name_is_one_line_of_visible_characters() -> None:
    text = one_line(NASTY)
    assert text == "a\\x1b[2J\\x07\\n2026-01-01 00:00:00 INFO: saved\\r\\x9b31m\\x7f\\u202egnp.exe\\u2069\\u2028\\udcff.png"
    assert not [character for character in text if unicodedata.category(character)[0] == "C"]


@pytest.mark.parametrize("name", ["結果.png", "Grüße – 1.jpg", "C:\\new\\table.png", "a b|c<d>.png", "👩‍👧.png"])
def test_other_names_stay_as_they_are(name: str) -> None:
    assert shown(name) == name == one_line(name)


def test_every_control_and_format_character_that_turns_or_breaks_lines_is_escaped() -> None:
    acting = [chr(n) for n in range(0x3000) if unicodedata.category(chr(n)) in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(chr(n))
              in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")]  # fmt: skip
    assert len(acting) > 70 and [character for character in acting if one_line(character) == character] == []


def test_line_breaks_of_our_own_lists_stay_and_none_of_a_name_begins_a_line() -> None:
    assert shown("2 failed:\n  a\nb: broken\n  c") == "2 failed:\n  a\\nb: broken\n  c"


def test_each_message_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("one", "", Path("two\n2026"))
    say("three", error=True)
    assert capsys.readouterr() == ("one\n\ntwo\\n2026\n", "three\n")


def test_a_traceback_is_told_whole(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise RuntimeError("odd\x1b")
    except RuntimeError as error:
        say_traceback(error)
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):\n  File ") and err.endswith("\nRuntimeError: odd\\x1b\n")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp932", "utf-8"])
def test_any_encoding_can_show_any_message(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    prepare()
    say("結果/é↑\udcff.png")
    say("–", error=True)
    found = streams[0].buffer.getvalue().decode(encoding)
    assert found.endswith("\\udcff.png\n") and ("結果" if encoding in ("cp932", "utf-8") else "\\u7d50\\u679c/") in found
    assert streams[1].buffer.getvalue() in ("–\n".encode(), b"\x96\n", b"\\u2013\n")


def test_a_program_without_a_console_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    prepare()
    say("x")
    say("y", error=True)


PROGRAM = """
import sys
from data.console import prepare, say
prepare()
for n in range(20000):
    say(f"line {n}")
open(sys.argv[1], "w").close()
"""


@pytest.mark.parametrize("reader", ["| head -n 1", "> /dev/full"])
def test_work_goes_on_when_nobody_reads(reader: str, tmp_path: Path) -> None:
    command = ["bash", "-c", f'set -o pipefail; "$0" -c "$1" "$2" {reader}', sys.executable, PROGRAM, str(tmp_path / "done")]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "") and (tmp_path / "done").exists()
