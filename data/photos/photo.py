"""Photos as people have them: read with everything that belongs to the picture, and written whole or not at all."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from data.image_files import DECODE_ERRORS, UnsuitableError, orientation, reason
from data.photos.color_profiles import profile_problem, to_srgb
from data.photos.exif import PREFIX, basic_exif, density_of, exif_for, exif_software
from data.photos.heif import cicp_of, depth_note, read_deep_heic
from data.photos.opening import open_image, pages_note
from data.photos.photo_pixels import read_samples
from data.photos.png_colors import profile_of
from data.photos.png_reader import LONG_PROFILE
from data.photos.png_writer import PROFILE_LIMIT, write_png
from data.photos.tiff_reader import directories, eight_bit, upright
from data.whole_files import whole_file

OUTPUT_FORMATS = ("png", "jpg", "webp")
"""What `write_photo` writes, by the suffix of the name (.jpeg is jpg too)."""

_LONGEST_SIDE = {"jpg": 65_500, "webp": 16_383}  # of libjpeg (the format itself holds 65,535) and of WebP
_PNG_LEVEL = 3  # a 2048 x 2048 photo takes 0.3 s; level 1 gives 7 % more bytes in 0.2 s, level 6 7 % fewer in 1.2 s


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture and what goes with it from file to file."""

    pixels: np.ndarray
    """(H, W, 1) grey or (H, W, 3) RGB, uint8 or uint16, upright."""
    alpha: np.ndarray | None = None
    """(H, W), same dtype; the colours are not premultiplied by it."""
    icc_profile: bytes | None = None
    """Of the colour space that `pixels` are in: a grey profile for grey, an RGB one for RGB. None is sRGB, unless `colours` differ."""
    colours: dict[bytes, bytes] = field(default_factory=dict)
    """PNG's chunks that say how the numbers look (cICP, gAMA ...), data by name, whatever file they are from."""
    density: tuple[float, float] | None = None
    """Pixels per inch, across and down."""
    exif: bytes | None = None
    """As `data.photos.exif.basic_exif` returns it, the orientation applied and removed."""
    notes: tuple[str, ...] = ()
    """What the owner of the file should be told."""

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if len(shape) != 3 or shape[2] not in (1, 3) or 0 in shape or dtype not in (np.uint8, np.uint16):
            raise ValueError(f"expected uint8 or uint16 pixels (H, W, 1) or (H, W, 3), got {dtype} {shape}")
        if self.alpha is not None and (self.alpha.shape, self.alpha.dtype) != (shape[:2], dtype):
            raise ValueError(f"expected {dtype} alpha {shape[:2]}, got {self.alpha.dtype} {self.alpha.shape}")


def read_photo(path: str | Path, max_megapixels: float = 100) -> Photo:
    """Read a PNG, JPEG, WebP, BMP, TIFF, GIF, PPM, AVIF or HEIC file: see docs/files.md for a table. Safe in threads.

    Grey stays grey, 16 bit stays 16 bit (32-bit and float grey become it), palettes become RGB, CMYK and LAB become sRGB.

    Raises: ValueError naming the file and the reason when it is missing, empty, truncated, no image or above `max_megapixels`.
    """
    try:
        with open_image(path) as image:
            megapixels = image.width * image.height / 1e6
            if megapixels > max_megapixels:
                limit = f"above max_megapixels ({max_megapixels:g}); raise it if the machine has the memory"
                raise UnsuitableError(f"has {megapixels:.1f} megapixels, {limit}")
            return _decode(image, path)
    except DECODE_ERRORS as error:
        raise ValueError(f"{path}: {reason(path, error)}") from error
    except MemoryError as error:
        raise ValueError(f"{path}: not enough memory to decode it") from error


def write_photo(path: str | Path, photo: Photo, *, quality: int = 95, software: str | None = None) -> tuple[str, ...]:
    """Write a photo in the format that the name ends in, whole or not at all; missing folders are made. Same photo, same bytes.

    PNG keeps everything. JPEG (4:4:4) and WebP (lossy) have 8 bit, JPEG no alpha, WebP no grey.

    quality: of JPEG and WebP, 1..100. software: for EXIF's Software entry, in place of the photo's.
    Returns: what the format could not keep, in words for the owner.
    Raises: ValueError for another suffix, a quality out of range, or sides that the format does not hold; OSError when the disk refuses.
    """
    path = Path(path)
    height, width = photo.pixels.shape[:2]
    form = output_format(path, height, width)
    if not 1 <= quality <= 100:
        raise ValueError(f"{path}: quality must be 1..100, got {quality}")
    exif = exif_for(photo.exif, height, width, software, photo.density, add_density=form == "webp")
    if form == "png":
        photo, notes = _with_short_profile(photo)
    else:
        profile, note = profile_of(photo.colours, photo.icc_profile, "L" if photo.pixels.shape[2] == 1 else "RGB")
        photo, notes = replace(photo, icc_profile=profile), (note,) if note else ()
    with whole_file(path) as file:
        if form == "png":
            block = exif and exif.removeprefix(PREFIX)
            carried = {"icc_profile": photo.icc_profile, "colours": photo.colours, "density": photo.density, "exif": block}
            write_png(file, photo.pixels, photo.alpha, **carried, level=_PNG_LEVEL)
            return notes
        return notes + _write_lossy(file, form, photo, quality, exif)


def output_format(path: Path, height: int, width: int) -> str:
    """Which of OUTPUT_FORMATS `write_photo` takes for a path. Raises ValueError for another suffix, or sides it does not hold."""
    form = path.suffix.lower().lstrip(".").replace("jpeg", "jpg")
    if form not in OUTPUT_FORMATS:
        raise ValueError(f"{path}: pictures are written as {', '.join(OUTPUT_FORMATS)}; choose a name that ends in one of them")
    if max(height, width) > _LONGEST_SIDE.get(form, max(height, width)):
        raise ValueError(f"{path}: {width} x {height} is too large for {form}, whose sides end at {_LONGEST_SIDE[form]}; write png")
    return form


def software_of(path: str | Path) -> str | None:
    """EXIF's Software entry of a file, from its header alone (not of a PNG that has its EXIF behind the pixels); None without one."""
    try:
        with open_image(path) as image:
            block = _exif_of(image, path)
    except DECODE_ERRORS:
        return None
    return exif_software(block) if block else None


def _decode(image: Image.Image, path: str | Path) -> Photo:
    """The photo in an opened image. Raises any of DECODE_ERRORS."""
    profile, problem, form = image.info.get("icc_profile"), "", image.format
    turn = orientation(image) if form == "TIFF" else 1
    cmyk_profile = profile if image.mode == "CMYK" and not profile_problem(profile, "CMYK") else None
    deep = form == "HEIF" and image.info["bit_depth"] > 8
    samples = read_deep_heic(path, image) if deep else read_samples(image, path, cmyk_profile)
    if image.mode in ("CMYK", "LAB"):
        profile = None
    elif "icc_profile" in image.info and LONG_PROFILE not in getattr(image, "passed_over", ()):
        problem = profile_problem(profile, "L" if samples.pixels.shape[2] == 1 else "RGB")
    exif, turned = _exif_of(image, path), turn >= 5
    if form != "TIFF":  # samples of TIFFs are upright already
        turn = orientation(image)
        turned = turn >= 5
        alpha = None if samples.alpha is None else upright(samples.alpha, turn)
        samples = replace(samples, pixels=upright(samples.pixels, turn), alpha=alpha)
    profile = None if problem else profile
    density = density_of(image, exif)
    notes = [pages_note(path), *samples.notes, f"{problem}: left out" if problem else ""]
    notes += [f"its {what}: left out" for what in sorted(getattr(image, "passed_over", ()))]
    notes += depth_note(path) if form == "AVIF" else ()
    return Photo(
        samples.pixels,
        samples.alpha,
        profile,
        _colours_of(image, path, profile),
        density[::-1] if density and turned else density,
        exif,
        tuple(note for note in notes if note),
    )


def _colours_of(image: Image.Image, path: str | Path, profile: bytes | None) -> dict[bytes, bytes]:
    """See `Photo.colours`; without the chunk that must not stand beside a profile."""
    if image.format == "PNG":
        return {name: data for name, data in image.colours.items() if not (profile and name == b"sRGB")}
    cicp = cicp_of(path) if image.format in ("AVIF", "HEIF") and not profile else None
    return {b"cICP": cicp} if cicp else {}


def _exif_of(image: Image.Image, path: str | Path) -> bytes | None:
    """The `basic_exif` block of an opened image. Of a TIFF it is the page's own directory, or the first if that says nothing."""
    if image.format == "TIFF":
        with open(path, "rb") as file:
            return (basic_exif(file, directories(file)[image.tell()].offset) if image.tell() else None) or basic_exif(file)
    block = image.info.get("exif")
    return basic_exif(block) if isinstance(block, bytes) else None


def _with_short_profile(photo: Photo) -> tuple[Photo, tuple[str, ...]]:
    """A photo whose profile a PNG can hold so that everybody reads it, and a note if it is another one."""
    profile = photo.icc_profile
    if profile is None or len(profile) <= PROFILE_LIMIT:
        return photo, ()
    what = f"its colour profile of {len(profile) / 1e6:.1f} MB is too long for PNG"
    if photo.pixels.dtype != np.uint8 or photo.pixels.shape[2] != 3:
        return replace(photo, icc_profile=None), (f"{what}: left out, so its colours look different; write jpg or webp to keep them",)
    pixels = np.array(to_srgb(Image.fromarray(photo.pixels), profile))
    return replace(photo, pixels=pixels, icc_profile=None), (f"{what}: turned into sRGB",)


def _write_lossy(file: BinaryIO, form: str, photo: Photo, quality: int, exif: bytes | None) -> tuple[str, ...]:
    """Encode as jpg or webp. Returns the notes of `write_photo`."""
    pixels, alpha, profile, notes = photo.pixels, photo.alpha, photo.icc_profile, []
    name = {"jpg": "JPEG", "webp": "WebP"}[form]
    if pixels.dtype == np.uint16:
        pixels, alpha = eight_bit(pixels), None if alpha is None else eight_bit(alpha)
        notes.append(f"16 bit written as 8 bit: {name} has no more")
    if form == "jpg" and alpha is not None:
        if alpha.min() < 255:
            pixels = _over_white(pixels, alpha)
            notes.append("transparency laid over white: JPEG has none")
        alpha = None
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
    if form == "webp" and image.mode == "L":
        image, profile = to_srgb(image, profile), None
        notes.append("grey written as RGB: WebP has no grey")
    if alpha is not None:
        image.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    if form == "jpg":
        density = {"dpi": photo.density} if photo.density else {}
        image.save(file, format="JPEG", quality=quality, subsampling=0, icc_profile=profile, exif=exif or b"", **density)
    else:
        image.save(file, format="WEBP", quality=quality, icc_profile=profile, exif=exif or b"")
    return tuple(notes)


def _over_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """uint8 (H, W, C) under its alpha (H, W) as it looks on white."""
    cover = alpha[:, :, None].astype(np.uint16)
    return ((pixels * cover + 255 * (255 - cover) + 127) // 255).astype(np.uint8)
