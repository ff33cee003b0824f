import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from data.image_io import (
    image_size,
    read_image,
    to_levels,
    to_tensor,
    to_uint8,
    to_unit_range,
    write_image,
)

RGB = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


def test_rgb_png_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_image(tmp_path / "sub" / "a.png", RGB)
    assert np.array_equal(read_image(tmp_path / "sub" / "a.png"), RGB)
    assert np.array_equal(cv2.imread(str(tmp_path / "sub" / "a.png"))[:, :, ::-1], RGB)
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.png"]


def test_sixteen_bit_is_scaled_not_clipped(tmp_path: Path) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (9, 11, 3), dtype=np.uint16)
    deep[0, 0] = (0, 65535, 300)
    cv2.imwrite(str(tmp_path / "rgb.png"), deep[:, :, ::-1])
    for suffix in ("png", "tif", "pgm"):
        cv2.imwrite(str(tmp_path / f"grey.{suffix}"), deep[:, :, 0])
        grey = read_image(tmp_path / f"grey.{suffix}")
        assert grey.shape == (9, 11, 3) and grey.dtype == np.uint8
        assert np.array_equal(grey[:, :, 0], np.floor(deep[:, :, 0] / 257.0 + 0.5)) and np.array_equal(grey[:, :, 0], grey[:, :, 2])
    assert np.abs(read_image(tmp_path / "rgb.png") - deep / 257.0).max() <= 1.0


def test_float_grey_is_scaled_and_refused_outside_of_its_range(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)
    Image.fromarray(values).save(tmp_path / "f.tif")
    assert np.array_equal(read_image(tmp_path / "f.tif")[:, :, 1], np.floor(values.astype(np.float64) * 255 + 0.5))
    Image.fromarray(values * 300).save(tmp_path / "g.tif")
    with pytest.raises(ValueError, match=r"g\.tif.*outside of 0\.\.1"):
        read_image(tmp_path / "g.tif")


def test_palette_grey_and_bilevel(tmp_path: Path) -> None:
    indices = np.arange(204).reshape(12, 17).astype(np.uint8)
    palette = np.random.default_rng(2).integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(indices, mode="L")
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "p.png", transparency=bytes(range(256)))
    assert np.array_equal(read_image(tmp_path / "p.png"), palette[indices])
    Image.fromarray(indices).save(tmp_path / "l.png")
    assert np.array_equal(read_image(tmp_path / "l.png"), np.stack([indices] * 3, axis=2))
    Image.fromarray(indices > 100).save(tmp_path / "1.png")
    assert np.array_equal(read_image(tmp_path / "1.png")[:, :, 0], (indices > 100) * 255)


def test_alpha_is_dropped_and_the_colours_below_it_kept(tmp_path: Path) -> None:
    alpha = np.random.default_rng(3).integers(0, 256, (12, 17, 1), dtype=np.uint8)
    alpha[:4] = 0
    Image.fromarray(np.concatenate([RGB, alpha], axis=2)).save(tmp_path / "rgba.png")
    assert np.array_equal(read_image(tmp_path / "rgba.png"), RGB)
    Image.fromarray(np.concatenate([RGB[:, :, :1], alpha], axis=2), mode="LA").save(tmp_path / "la.png")
    assert np.array_equal(read_image(tmp_path / "la.png"), np.repeat(RGB[:, :, :1], 3, axis=2))


def test_cmyk_becomes_the_colours_it_prints(tmp_path: Path) -> None:
    cmyk = np.random.default_rng(4).integers(0, 256, (12, 17, 4), dtype=np.uint8)
    Image.fromarray(cmyk, mode="CMYK").save(tmp_path / "c.tif")
    ink = cmyk.astype(np.float64) / 255
    truth = 255 * (1 - ink[:, :, :3]) * (1 - ink[:, :, 3:])
    assert np.abs(read_image(tmp_path / "c.tif") - truth).max() <= 1.5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    """Truth from the EXIF standard: which corner of the shown picture the stored row 0, column 0 is."""
    stored = RGB
    shown = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
        5: stored.transpose(1, 0, 2), 6: np.rot90(stored, -1), 7: stored[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(stored),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "e.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "e.png"), shown)
    assert image_size(tmp_path / "e.png") == shown.shape[:2]


def test_damaged_exif_does_not_lose_the_picture(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "e.png", exif=b"Exif\x00\x00garbage")
    assert np.array_equal(read_image(tmp_path / "e.png"), RGB)


def test_broken_files_are_refused_by_name_and_reason(tmp_path: Path) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for suffix in ("jpg", "png", "webp", "tif", "bmp"):
        whole = tmp_path / f"whole.{suffix}"
        Image.fromarray(noise).save(whole)
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        with pytest.raises(ValueError, match=rf"cut\.{suffix}: .*(truncated|broken)"):
            read_image(cut)
    damaged = bytearray((tmp_path / "whole.png").read_bytes())
    damaged[200:260] = bytes(60)
    (tmp_path / "damaged.png").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"damaged\.png: broken"):
        read_image(tmp_path / "damaged.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "folder.png").mkdir()
    reasons = {"empty": "0 bytes", "text": "not an image", "gone": "no such file", "folder": "directory", "long" * 80: "too long"}
    for name, reason in reasons.items():
        for function in (read_image, image_size):
            with pytest.raises(ValueError, match=rf"{name}\.png: .*{reason}"):
                function(tmp_path / f"{name}.png")


def test_interrupted_write_leaves_nothing_and_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "old.png", RGB)
    real_save = Image.Image.save

    def full_disk(self: Image.Image, file: object, format: str) -> None:
        real_save(self, file, format=format)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    for name in ("old.png", "new.png"):
        with pytest.raises(OSError, match="No space left"):
            write_image(tmp_path / name, 255 - RGB)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["old.png"]
    assert np.array_equal(read_image(tmp_path / "old.png"), RGB)


def test_the_old_file_stays_whole_until_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "a.png", RGB)
    seen: list[bool] = []
    real_replace = os.replace

    def replace(source: Path, target: Path) -> None:
        seen.append(np.array_equal(read_image(target), RGB) and Path(source).parent == tmp_path)
        real_replace(source, target)

    monkeypatch.setattr(os, "replace", replace)
    write_image(tmp_path / "a.png", 255 - RGB)
    assert seen == [True] and np.array_equal(read_image(tmp_path / "a.png"), 255 - RGB)


def test_write_refuses_what_is_no_rgb_png(tmp_path: Path) -> None:
    for path, image in (("a.jpg", RGB), ("a.png", RGB[:, :, 0]), ("a.png", RGB / 255)):
        with pytest.raises(ValueError, match=r"a\.(jpg|png): "):
            write_image(tmp_path / path, image)
    assert not list(tmp_path.iterdir())


def test_tensors_and_rounding() -> None:
    tensor = to_tensor(RGB)
    assert tensor.shape == (3, 12, 17) and tensor.dtype == torch.float32
    assert tensor[1, 2, 3].item() == pytest.approx(RGB[2, 3, 1] / 255) and np.array_equal(to_uint8(tensor), RGB)
    image = np.random.default_rng(6).random((4, 5, 3))
    assert np.allclose(to_tensor(image).numpy(), image.transpose(2, 0, 1), atol=1e-7)
    levels = torch.tensor([-0.2, 0.0, 0.49 / 255, 0.5 / 255, 1.5 / 255, 2.5 / 255, 254.49 / 255, 254.51 / 255, 1.0, 7.0])
    assert to_uint8(levels.expand(3, 2, 10))[1, :, 2].tolist() == [0, 0, 0, 1, 2, 3, 254, 255, 255, 255]


HERE = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
    pytest.param("mps", marks=pytest.mark.skipif(not torch.backends.mps.is_available(), reason="needs a Mac")),
]


@pytest.mark.parametrize("device", HERE)
def test_levels_become_floats_bit_for_bit_as_numpy_divides(device: str) -> None:
    """Truth: k / 255 in double precision, rounded once to float32, and numpy's own float32 division."""
    found = to_unit_range(torch.arange(256, dtype=torch.uint8, device=device)).cpu().numpy()
    assert found.dtype == np.float32
    assert np.array_equal(found, np.array([level / 255 for level in range(256)]).astype(np.float32))
    assert np.array_equal(found, np.arange(256).astype(np.float32) / np.float32(255))


def test_levels_are_those_of_the_picture_or_the_nearest() -> None:
    assert np.array_equal(to_levels(RGB[:, ::-1]).permute(1, 2, 0).numpy(), RGB[:, ::-1])
    assert torch.equal(to_levels(RGB.astype(np.float32) / 255), to_levels(RGB)), "levels survive the way through floats"
    values = np.array([-0.2, 0, 0.49 / 255, 0.51 / 255, 254.49 / 255, 254.51 / 255, 1, 1.0001], dtype=np.float32)
    levels = to_levels(np.repeat(values[None, :, None], 3, axis=2))
    assert levels.shape == (3, 1, 8) and levels.dtype == torch.uint8 and levels[2, 0].tolist() == [0, 0, 0, 1, 254, 255, 255, 255]
    one = np.zeros((1, 1, 3), dtype=np.uint8)
    to_levels(one).fill_(9)
    assert one.max() == 0


def test_to_tensor_never_shares_memory_with_the_array() -> None:
    image = np.zeros((3, 4, 5), dtype=np.float32).transpose(1, 2, 0)
    to_tensor(image).fill_(1)
    assert image.max() == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["tif", "jpg", "png", "webp"])
def test_the_size_is_that_of_the_upright_image(tmp_path, orientation, extension):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (20, 10)).save(tmp_path / f"a.{extension}", exif=exif)
    assert image_size(tmp_path / f"a.{extension}") == read_image(tmp_path / f"a.{extension}").shape[:2]
    assert image_size(tmp_path / f"a.{extension}") == ((20, 10) if orientation >= 5 else (10, 20))
