"""What may stand in `datasets.train.dataroot_gt`."""

from pathlib import Path
from typing import Any

import pytest

from options.d3sr import load_train_options
from options.datasets import HRSource
from options.schema import OptionsError

ROOT = Path(__file__).resolve().parents[2]


def train_data(*force: str) -> Any:
    return load_train_options(ROOT / "options" / "train.yml", [f"datasets.train.{line}" for line in force]).datasets.train


def test_manifests_and_shards_are_sources_like_folders() -> None:
    assert train_data("dataroot_gt=data.jsonl").sources == (("data.jsonl", 1.0),)
    assert train_data("dataroot_gt=shards/{00000..00127}.tar").sources == (("shards/{00000..00127}.tar", 1.0),)
    mixed = train_data('dataroot_gt=[a.jsonl, {path: "s/{0..9}.tar", weight: 2.5}, folder]')
    assert mixed.sources == (("a.jsonl", 1.0), ("s/{0..9}.tar", 2.5), ("folder", 1.0))
    assert mixed.dataroot_gt[1] == HRSource(path="s/{0..9}.tar", weight=2.5)


@pytest.mark.parametrize("root", ["data.jsonl", "shards/{0..9}.tar"])
def test_pairs_are_matched_by_name_so_they_need_folders(root: str) -> None:
    with pytest.raises(OptionsError, match="dataroot_gt: expected a folder or .txt list with dataroot_lq"):
        train_data(f"dataroot_gt={root}", "dataroot_lq=lr")
    assert train_data("dataroot_gt=hr", "dataroot_lq=lr").dataroot_lq == "lr"


def test_templates_are_names_with_one_place_and_have_a_use() -> None:
    assert train_data("dataroot_gt=hr", "dataroot_lq=lr", "filename_tmpl='{}x4'").templates == ("{}x4", "{}")
    assert train_data("dataroot_gt=hr", "filename_tmpl='{}'").templates == ("{}", "{}"), "as BasicSR's files say it"
    for template in ("x4", "{}{}", "{0}", "{}.{a}", "a/{}", "{"):
        with pytest.raises(OptionsError, match="filename_tmpl_gt: expected a name with one {} in place"):
            train_data("dataroot_gt=hr", "dataroot_lq=lr", f"filename_tmpl_gt='{template}'")
    with pytest.raises(OptionsError, match="filename_tmpl: there is no use for it without dataroot_lq"):
        train_data("dataroot_gt=hr", "filename_tmpl='{}x4'")
