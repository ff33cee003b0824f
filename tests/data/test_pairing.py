"""Which LR goes with which HR: names that differ by a template, names of known data sets, lists with folders, lists of pairs."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from data.pairing import KNOWN, PLAIN, files_by_name, pair_by_name


def touch(root: Path, *relatives: str) -> None:
    for relative in relatives:
        (root / relative).parent.mkdir(parents=True, exist_ok=True)
        (root / relative).touch()


def paired(root: Path, lq: str | Sequence[str], gt: str, templates: tuple[str, str] = PLAIN) -> tuple[list[tuple[str, str]], list[str]]:
    """([(LR, HR) as paths below root], remarks without root)."""
    found = pair_by_name(root / lq, root / gt, templates)
    pairs = [tuple(file.path.relative_to(root).as_posix() for file in pair) for pair in found.pairs]
    return pairs, [remark.replace(f"{root}/", "") for remark in found.remarks]


def test_plain_names_pair_without_a_word(tmp_path: Path) -> None:
    touch(tmp_path, "LR/a/1.png", "LR/2.png", "HR/a/1.jpg", "HR/2.bmp")
    assert paired(tmp_path, "LR", "HR") == ([("LR/2.png", "HR/2.bmp"), ("LR/a/1.png", "HR/a/1.jpg")], [])


@pytest.mark.parametrize(
    ("lr", "hr", "said"),
    [
        ("0801x4.png", "0801.png", "'{}x4' and '{}'"),
        ("s/0801x2.png", "s/0801.png", "'{}x2' and '{}'"),
        ("0001x4w.png", "0001.png", "'{}x4w' and '{}'"),
        ("Canon_001_LR4.png", "Canon_001_HR.png", "'{}_LR4' and '{}_HR'"),
        ("DSC_1_x1.png", "DSC_1_x4.png", "'{}_x1' and '{}_x4'"),
        ("DSC_1_x4.png", "DSC_1_x1.png", "'{}_x4' and '{}_x1'"),
        ("img_001_SRF_4_LR.png", "img_001_SRF_4_HR.png", "'{}_SRF_4_LR' and '{}_SRF_4_HR'"),
    ],
)
def test_names_of_known_data_sets_pair_and_are_remarked(lr: str, hr: str, said: str, tmp_path: Path) -> None:
    others = [name.replace("1", "7") if "_1" not in name and "01" in name else name.replace("_1_", "_77_") for name in (lr, hr)]
    touch(tmp_path, f"LR/{lr}", f"HR/{hr}", f"LR/{others[0]}", f"HR/{others[1]}")
    pairs, remarks = paired(tmp_path, "LR", "HR")
    assert set(pairs) == {(f"LR/{lr}", f"HR/{hr}"), (f"LR/{others[0]}", f"HR/{others[1]}")}
    assert remarks == [f"LR and HR are paired as {said} (filename_tmpl, filename_tmpl_gt)"]


def test_one_folder_holds_both_sides(tmp_path: Path) -> None:
    """RealSR(V3)/Canon/Test/4 as it is unpacked."""
    touch(tmp_path, *(f"4/Canon_{number}_{end}.png" for number in (1, 2, 10) for end in ("HR", "LR4")))
    pairs, remarks = paired(tmp_path, "4", "4")
    assert pairs == [(f"4/Canon_{number}_LR4.png", f"4/Canon_{number}_HR.png") for number in (1, 2, 10)]
    assert remarks == ["LR and HR are paired as '{}_LR4' and '{}_HR' (filename_tmpl, filename_tmpl_gt)"]
    assert paired(tmp_path, "4", "4", ("{}_LR4", "{}_HR")) == (pairs, [])
    touch(tmp_path, "4/Canon_3_HR.png")
    for templates in (PLAIN, ("{}_LR4", "{}_HR")):
        with pytest.raises(ValueError, match=r"1 files have no partner:\n  .*4/Canon_3_HR.png: no LR '\{\}_LR4' in "):
            paired(tmp_path, "4", "4", templates)
    touch(tmp_path, "plain/1.png", "plain/2.png")
    assert paired(tmp_path, "plain", "plain") == ([(f"plain/{number}.png",) * 2 for number in (1, 2)], []), "scale 1"


def test_a_template_is_the_only_way_where_it_is_given(tmp_path: Path) -> None:
    touch(tmp_path, "LR/small_b.1_q.png", "LR/small_a_q.png", "HR/a-big.png", "HR/b.1-big.png")
    assert paired(tmp_path, "LR", "HR", ("small_{}_q", "{}-big")) == (
        [("LR/small_a_q.png", "HR/a-big.png"), ("LR/small_b.1_q.png", "HR/b.1-big.png")],
        [],
    )
    with pytest.raises(ValueError, match=r"(?s)filename_tmpl.*4 files have no partner.*small_a_q.png: no HR of the same name"):
        paired(tmp_path, "LR", "HR")
    touch(tmp_path, "LR/c.png")
    with pytest.raises(ValueError, match=r"(?s)1 files have no partner.*LR/c.png: its name is not 'small_\{\}_q'"):
        paired(tmp_path, "LR", "HR", ("small_{}_q", "{}-big"))


def test_one_missing_file_does_not_hide_how_the_others_are_called(tmp_path: Path) -> None:
    touch(tmp_path, *(f"LR/{number}x4.png" for number in range(9)), *(f"HR/{number}.png" for number in range(8)))
    with pytest.raises(ValueError, match=r"as '\{\}x4' and '\{\}'; 1 files have no partner:\n  .*LR/8x4.png: no HR '\{\}' in "):
        paired(tmp_path, "LR", "HR")


def test_every_known_template_tells_lr_from_hr() -> None:
    assert all(lr != hr and lr.count("{}") == hr.count("{}") == 1 for lr, hr in KNOWN) and len(set(KNOWN)) == len(KNOWN)


def test_lists_that_name_their_folders_pair_without_them(tmp_path: Path) -> None:
    touch(tmp_path, "LR/1.png", "LR/s/2x4.png", "HR/1.png", "HR/s/2.png", "LR/s/3.png", "HR/s/3.png")
    (tmp_path / "lr.txt").write_text("LR/1.png\nLR/s/3.png\n")
    (tmp_path / "hr.txt").write_text("HR/s/3.png\nHR/1.png\n")
    pairs, remarks = paired(tmp_path, "lr.txt", "hr.txt")
    assert pairs == [("LR/1.png", "HR/1.png"), ("LR/s/3.png", "HR/s/3.png")]
    assert remarks == ["LR and HR are paired without the folders in front: LR and HR"]
    (tmp_path / "lr.txt").write_text("LR/s/2x4.png\n")
    (tmp_path / "hr.txt").write_text("HR/s/2.png\n")
    pairs, remarks = paired(tmp_path, "lr.txt", "hr.txt")
    assert pairs == [("LR/s/2x4.png", "HR/s/2.png")]
    assert remarks[0].endswith("as '{}x4' and '{}' (filename_tmpl, filename_tmpl_gt), without the folders in front: LR/s and HR/s")
    (tmp_path / "hr.txt").write_text("HR/1.png\n")
    with pytest.raises(ValueError, match="2 files have no partner"):
        paired(tmp_path, "lr.txt", "hr.txt")
    (tmp_path / "lr.txt").write_text("LR/1.png\nLR/s/3.png\n")
    (tmp_path / "HR" / "4.mov").touch()
    (tmp_path / "HR" / "s" / "2.png").unlink()
    assert paired(tmp_path, "lr.txt", "HR") == (
        [("LR/1.png", "HR/1.png"), ("LR/s/3.png", "HR/s/3.png")],
        ["LR and HR are paired without the folders in front: LR and (none)", "HR: 1 passed over: .mov 1"],
    )


def test_a_list_of_pairs_is_given_for_both_sides(tmp_path: Path) -> None:
    touch(tmp_path, "HR/a.png", "LR/q.png", "HR/b.png", "LR/p.png")
    (tmp_path / "pairs.txt").write_text("HR/a.png, LR/q.png\nHR/b.png, LR/p.png\n")
    assert paired(tmp_path, "pairs.txt", "pairs.txt") == ([("LR/q.png", "HR/a.png"), ("LR/p.png", "HR/b.png")], [])
    with pytest.raises(ValueError, match=r"pairs.txt, line 1: a pair"):
        paired(tmp_path, "LR", "pairs.txt")


def test_places_that_cannot_be_listed_are_refused_with_hr_and_handed_back_without(tmp_path: Path) -> None:
    touch(tmp_path, "LR/1.png", "HR/1.png")
    (tmp_path / "l.txt").write_text("LR/1.png\n\0\n")
    failure = f"{tmp_path}/l.txt, line 2: no name of a file, since it holds a NUL"
    assert pair_by_name(tmp_path / "l.txt", None).failures == [failure]
    for wrong in (lambda: pair_by_name(tmp_path / "l.txt", tmp_path / "HR"), lambda: files_by_name(tmp_path / "l.txt")):
        with pytest.raises(ValueError, match=r"1 places cannot be read, so pictures would be missing:\n  .*l.txt, line 2"):
            wrong()
