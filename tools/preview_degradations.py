"""Writes a sheet of degraded LR examples of one picture, each beside the parameters that were drawn for it.

    python tools/preview_degradations.py photo.jpg -o sheet.png -n 12 --seed 0 -opt options/train.yml

HR comes first (sharpened where `datasets.train.gt_usm` says so). LR is enlarged without interpolation: every LR pixel is a square.
Example #k of a seed is always the same, whatever -n.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from degradations.stage import Degradation

MARGIN = 8
FONT_SIZE = 15
COLUMNS = 3
MIN_PICTURE_SIZE = 240  # px on the sheet; smaller pictures are enlarged, since the text beside them is as high


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line of this tool; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", metavar="IMAGE", help="a sharp picture (HR)")
    parser.add_argument("-o", "--output", default="sheet.png", help="PNG to write (default: %(default)s)")
    parser.add_argument("-n", "--num", type=int, default=12, help="how many LR examples (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="first half of each example's seed (default: %(default)s)")
    parser.add_argument("-opt", "--options", help="training options: degradation, scale and gt_usm come from there (default: x4plus)")
    parser.add_argument("--crop", type=int, default=256, help="side of the centre crop of IMAGE that is degraded (default: %(default)s)")
    parsed = parser.parse_args(arguments)
    if parsed.num < 1 or parsed.crop < 1 or parsed.seed < 0:
        parser.error("-n and --crop must be at least 1, --seed at least 0")
    return parsed


def centre_crop(image: "np.ndarray", side: int, scale: int) -> "np.ndarray":
    """The centre of (H, W, 3), at most side x side, both sides multiples of `scale`. ValueError where the image is too small for that."""
    height, width = (min(side, size) // scale * scale for size in image.shape[:2])
    if not height or not width:
        raise ValueError(f"the crop of {min(side, image.shape[1])}x{min(side, image.shape[0])} pixels is smaller than scale {scale}")
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def build_sheet(hr: "np.ndarray", degradation: "Degradation", *, scale: int, num: int, seed: int) -> "np.ndarray":
    """uint8 RGB sheet of `hr`, float32 (H, W, 3) in [0, 1], and of `num` examples; example k uses the generator of seed (seed, k)."""
    import numpy as np

    from degradations.second_order import apply, draw

    zoom = -(-MIN_PICTURE_SIZE // max(hr.shape[:2]))
    height, width = hr.shape[:2]
    cells = [(_enlarge(hr, zoom), f"HR {width}x{height}\nseed {seed}\nscale {scale}\nLR {width // scale}x{height // scale}")]
    for index in range(num):
        drawn = draw(np.random.default_rng([seed, index]), degradation, (height, width), scale)
        cells.append((_enlarge(apply(hr, drawn), zoom * scale), f"#{index}\n{drawn}"))
    return _arrange(cells)


def _enlarge(image: "np.ndarray", factor: int) -> "np.ndarray":
    import numpy as np

    return np.rint(image.repeat(factor, axis=0).repeat(factor, axis=1) * 255.0).astype(np.uint8)


def _arrange(cells: list[tuple["np.ndarray", str]]) -> "np.ndarray":
    """Pictures with their texts to the right, in rows of COLUMNS; a cell is as large as the largest picture and text need."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

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


def main(arguments: list[str] | None = None) -> None:
    """Reads the picture, writes the sheet. Exits with a message on a user's mistake."""
    parsed = parse_arguments(arguments)

    import numpy as np

    from data.image_io import read_image, write_image
    from degradations.blur import usm_sharpen
    from degradations.stage import Degradation

    degradation, scale, usm = Degradation(), 4, False
    try:
        if parsed.options:
            from options.d3sr import load_train_options

            options = load_train_options(parsed.options)
            degradation, scale, usm = options.degradation, options.scale, options.datasets.train.gt_usm
        hr = centre_crop(read_image(parsed.image), parsed.crop, scale).astype(np.float32) / 255.0
        if usm:
            hr = usm_sharpen(hr)
        write_image(parsed.output, build_sheet(hr, degradation, scale=scale, num=parsed.num, seed=parsed.seed))
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"wrote {parsed.output}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, only tools/ is on the path
    main()
