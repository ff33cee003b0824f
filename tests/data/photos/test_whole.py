import io

import numpy as np
import pytest
from PIL import Image

from data.photos.photo import Photo, read_photo, write_photo
from data.photos.whole import photo_size, whole_size
from tests.odd_files import write_odd_files

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)


def test_the_size_of_every_odd_file_is_that_of_what_is_read(tmp_path):
    odd_files = write_odd_files(tmp_path)
    whole = [name for name, odd in odd_files.items() if not odd.reason and odd.listed]
    assert len(whole) > 30
    for name in whole:
        assert photo_size(tmp_path / name) == read_photo(tmp_path / name).pixels.shape[:2], name


@pytest.mark.parametrize("bytes_", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_no_picture_has_no_size(tmp_path, bytes_):
    (tmp_path / "a.png").write_bytes(bytes_)
    with pytest.raises(ValueError, match="a.png: "):
        photo_size(tmp_path / "a.png")
    assert whole_size(tmp_path / "a.png") is None and whole_size(tmp_path / "absent.png") is None


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_a_result_is_whole_to_its_last_byte_only(tmp_path, name):
    path = tmp_path / name
    write_photo(path, Photo(PIXELS), software="D3SR 0")
    data = path.read_bytes()
    assert whole_size(path) == (30, 50)
    for kept in (0, 1, 12, 40, len(data) // 2, len(data) - 12, len(data) - 2, len(data) - 1):
        path.write_bytes(data[:kept])
        assert whole_size(path) is None, f"{kept} of {len(data)} bytes"


def test_a_png_of_others_is_whole_and_one_with_a_hole_is_not(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (270, 450, 3), np.uint8)).save(buffer, "PNG")
    data = buffer.getvalue()
    (tmp_path / "a.png").write_bytes(data)
    assert whole_size(tmp_path / "a.png") == (270, 450)
    first = data.index(b"IDAT") - 4
    end = first + int.from_bytes(data[first : first + 4], "big") + 12
    (tmp_path / "a.png").write_bytes(data[:end] + bytes(12 * 5000) + data[-12:])  # as some disks look after a power cut
    assert whole_size(tmp_path / "a.png") is None


def test_formats_that_are_no_results_are_not_whole(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png", "BMP")
    assert whole_size(tmp_path / "a.png") is None and photo_size(tmp_path / "a.png") == (30, 50)
