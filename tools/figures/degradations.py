"""The sheet of tools/preview_degradations.py: LR examples of one picture, each beside the numbers that were drawn for it."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.image_io import read_image, write_image
from degradations.blur import usm_sharpen
from degradations.second_order import apply, draw
from degradations.stage import Degradation
from options.d3sr import load_train_options

MARGIN = 8
FONT_SIZE = 15
COLUMNS = 3
MIN_PICTURE_SIZE = 240  # px on the sheet; smaller pictures are enlarged, since the text beside them is as high


def write_sheet(image: str | Path, output: str | Path, *, options: str | None, crop: int, num: int, seed: int) -> None:
    """Writes the sheet of a picture's centre of at most `crop` pixels as PNG.

    options: a training option file that gives degradation, scale and gt_usm; None is x4plus.
    Raises: ValueError naming the file when the picture cannot be read or is too small, or the options are wrong.
    """
    degradation, scale, usm = Degradation(), 4, False
    if options:
        train = load_train_options(options)
        degradation, scale, usm = train.degradation, train.scale, train.datasets.train.gt_usm
    hr = centre_crop(read_image(image), crop, scale).astype(np.float32) / 255.0
    if usm:
        hr = usm_sharpen(hr)
    write_image(output, build_sheet(hr, degradation, scale=scale, num=num, seed=seed))


def centre_crop(image: np.ndarray, side: int, scale: int) -> np.ndarray:
    """The centre of (H, W, 3), at most side x side, both sides multiples of `scale`. ValueError where the image is too small for that."""
    height, width = (min(side, size) // scale * scale for size in image.shape[:2])
    if not height or not width:
        raise ValueError(f"the crop of {min(side, image.shape[1])}x{min(side, image.shape[0])} pixels is smaller than scale {scale}")
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def build_sheet(hr: np.ndarray, degradation: Degradation, *, scale: int, num: int, seed: int) -> np.ndarray:
    """uint8 RGB sheet of `hr`, float32 (H, W, 3) in [0, 1], and of `num` examples; example k uses the generator of seed (seed, k)."""
    zoom = -(-MIN_PICTURE_SIZE // max(hr.shape[:2]))
    height, width = hr.shape[:2]
    cells = [(_enlarge(hr, zoom), f"HR {width}x{height}\nseed {seed}\nscale {scale}\nLR {width // scale}x{height // scale}")]
    for index in range(num):
        drawn = draw(np.random.default_rng([seed, index]), degradation, (height, width), scale)
        cells.append((_enlarge(apply(hr, drawn), zoom * scale), f"#{index}\n{drawn}"))
    return _arrange(cells)


def _enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    return np.rint(image.repeat(factor, axis=0).repeat(factor, axis=1) * 255.0).astype(np.uint8)


def _arrange(cells: list[tuple[np.ndarray, str]]) -> np.ndarray:
    """Pictures with their texts to the right, in rows of COLUMNS; a cell is as large as the largest picture and text need."""
    font = ImageFont.load_default(FONT_SIZE)
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    boxes = [ruler.multiline_textbbox((0, 0), text, font=font) for _, text in cells]
    picture_width = max(picture.shape[1] for picture, _ in cells)
    cell_width = picture_width + int(max(box[2] for box in boxes)) + 3 * MARGIN
    cell_height = max(max(picture.shape[0] for picture, _ in cells), int(max(box[3] for box in boxes))) + 2 * MARGIN
    columns = min(COLUMNS, len(cells))
    sheet = Image.new("RGB", (columns * cell_width, -(-len(cells) // columns) * cell_height), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (picture, text) in enumerate(cells):
        x, y = index % columns * cell_width + MARGIN, index // columns * cell_height + MARGIN
        sheet.paste(Image.fromarray(picture), (x, y))
        pen.multiline_text((x + picture_width + MARGIN, y), text, font=font, fill="black")
    return np.asarray(sheet)
