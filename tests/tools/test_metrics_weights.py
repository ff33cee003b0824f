"""Downloads from file:// addresses, so the whole way is gone without a network."""

import hashlib
from pathlib import Path

import pytest

from scoring import metric_weights
from scoring.metric_weights import WeightFile
from tools.metrics_weights import main

CONTENT = b"all weights of a metric"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One file as published, one that nobody publishes a hash of, one that does not exist at its source, one with another hash."""
    for variable in ("TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(variable, "put back by monkeypatch")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("good.pth", "plain.mat", "other.pth"):
        (source / name).write_bytes(CONTENT)
    hashes = {"good.pth": DIGEST[:8], "plain.mat": "", "absent.pth": "", "other.pth": "00000000"}
    files = {
        name: (WeightFile(name=name, url=(source / name).as_uri(), folder="pyiqa", sha256=hashes[name]),)
        for name in ("good.pth", "plain.mat", "absent.pth", "other.pth")
    }
    monkeypatch.setattr(metric_weights, "FILES", files)
    return tmp_path / "cache"


def test_files_are_downloaded_checked_and_recorded(cache: Path, capsys) -> None:
    assert main(["--metrics", "good.pth", "plain.mat", "--cache", str(cache)]) == 0
    said = capsys.readouterr().out
    assert f"SHA-256 {DIGEST}, as published" in said and "none published to compare with" in said
    assert (cache / "hub/pyiqa/good.pth").read_bytes() == CONTENT
    record = (cache / "hub/SHA256SUMS").read_text()
    assert record == f"{DIGEST}  pyiqa/good.pth\n{DIGEST}  pyiqa/plain.mat\n"
    assert main(["--metrics", "good.pth", "plain.mat", "--cache", str(cache), "--check"]) == 0
    assert "downloading" not in (said := capsys.readouterr().out) and "as recorded" in said


def test_what_cannot_be_had_is_named_and_the_others_are_downloaded(cache: Path, capsys) -> None:
    assert main(["--metrics", "absent.pth", "other.pth", "good.pth", "--cache", str(cache)]) == 1
    out, err = capsys.readouterr()
    assert "absent.pth: cannot be downloaded" in err and f"to be put into {cache / 'hub/pyiqa'}" in err
    assert "other.pth: cannot be downloaded: invalid hash value" in err and not (cache / "hub/pyiqa/other.pth").exists()
    assert "1 of 3 files are there" in out and (cache / "hub/pyiqa/good.pth").is_file()


def test_check_downloads_nothing_and_finds_a_changed_file(cache: Path, capsys) -> None:
    assert main(["--metrics", "plain.mat", "--cache", str(cache), "--check"]) == 1
    assert not cache.exists() and "plain.mat: MISSING" in capsys.readouterr().err
    main(["--metrics", "plain.mat", "--cache", str(cache)])
    (cache / "hub/pyiqa/plain.mat").write_bytes(b"changed")
    assert main(["--metrics", "plain.mat", "--cache", str(cache), "--check"]) == 1
    assert "ANOTHER FILE THAN IT SHOULD BE" in capsys.readouterr().err


def test_an_unknown_metric_is_a_mistake(cache: Path, capsys) -> None:
    assert main(["--metrics", "nonsense", "--cache", str(cache)]) == 2
    assert "nonsense are not listed" in capsys.readouterr().err
