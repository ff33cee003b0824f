"""Videos read frame by frame, through PyAV (FFmpeg). It is optional: only this folder imports it, and is itself imported late.

The stream's own matrix and range lead to RGB, and back in `data.videos.parts`.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation

READ = "mov,matroska,webm,avi,nut"
"""Demuxers; never playlists, which name other files and addresses."""

BT709, RGB, UNKNOWN, BT470BG, SMPTE170M = 1, 0, 2, 5, 6
MATRICES = {BT709: 1, 4: 4, BT470BG: 5, SMPTE170M: 5, 7: 7, 9: 9}
"""H.273's number of a matrix -> swscale's."""
LIMITED, FULL = 1, 2
BROKEN = (av.FFmpegError, OSError)
"""What damage is told by; the second is a place before the beginning of the file."""
Frame = av.VideoFrame
SCALER = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What is known of a video before its frames are read.

    width, height: as coded, before `turn`. frames, seconds: as its headers say or estimated; the decoder has the last word. deep: more than
    8 bit. color: matrix, range, primaries and transfer as H.273 numbers them. turn: its display matrix (9 numbers), if players turn it.
    """

    path: Path
    width: int
    height: int
    frames: int
    seconds: float
    rate: Fraction
    time_base: Fraction
    deep: bool
    color: tuple[int, int, int, int]
    aspect: Fraction
    turn: tuple[int, ...] | None
    interlaced: bool


@contextmanager
def in_words(path: Path, doing: str) -> Iterator[None]:
    """FFmpeg's own errors as ValueError, with the file's name and what was being done."""
    try:
        yield
    except av.FFmpegError as error:
        raise ValueError(f"{path}: {doing} ({error.strerror or error})") from error


@contextmanager
def opened(path: Path) -> Iterator[av.container.InputContainer]:
    """The file for reading. It is handed over as a stream of bytes, so that no name or content of it leads FFmpeg to another file.

    Raises OSError where it cannot be opened, ValueError where it is no video that can be read.
    """
    options = {"format_whitelist": READ, "protocol_whitelist": "none"}
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        try:
            container = stack.enter_context(av.open(file, container_options=options, metadata_errors="replace"))
        except BROKEN as error:
            raise ValueError(f"{path}: no video that can be read, or broken ({error.strerror or error})") from error
        yield container


def read_clip(path: Path, max_megapixels: float) -> Clip:
    """Headers and first frame. Raises OSError and ValueError for what cannot be read, is too large, or has colours that are unknown."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: not a file")  # to open a pipe would wait for ever
    with opened(path) as container:
        stream = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise ValueError(f"{path}: there is no video in it that can be decoded")
        if stream.width * stream.height > max_megapixels * 1e6:
            raise ValueError(f"{path}: {stream.width}x{stream.height} is above max_megapixels: {max_megapixels:g}")
        first = next(_decoded(container, stream, []), None)
        if first is None:
            raise ValueError(f"{path}: no frame of it can be decoded")
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        duration = stream.duration * stream.time_base if stream.duration else Fraction(container.duration or 0, 1_000_000)
        turn = first.side_data.get("DISPLAYMATRIX")
        return Clip(
            path=path,
            width=first.width,
            height=first.height,
            frames=stream.frames or round(duration * rate),
            seconds=float(duration),
            rate=rate,
            time_base=stream.time_base,
            deep=max(component.bits for component in first.format.components) > 8,
            color=(*_matrix_and_range(path, first), int(first.color_primaries), int(first.color_trc)),
            aspect=stream.sample_aspect_ratio or Fraction(1),
            turn=tuple(np.frombuffer(bytes(turn), np.int32).tolist()) if turn else None,
            interlaced=first.interlaced_frame,
        )


def _matrix_and_range(path: Path, frame: av.VideoFrame) -> tuple[int, int]:
    """What leads from the frame's numbers to RGB. An unnamed matrix is the one that players take for its size."""
    matrix = int(frame.colorspace)
    if matrix in (RGB, UNKNOWN):
        matrix = BT709 if frame.width >= 1280 or frame.height > 576 else SMPTE170M
    if matrix not in MATRICES:
        raise ValueError(f"{path}: its colours are coded in a way that is not known here (matrix {matrix} of H.273)")
    full = not frame.format.is_rgb and (frame.color_range == FULL or frame.format.name.startswith("yuvj"))
    return matrix, FULL if full else LIMITED


def read_frames(clip: Clip, damaged: list[float]) -> Iterator[av.VideoFrame]:
    """All frames that can be decoded, each with a pts from 0 above the one before; `damaged` gets the seconds of what was not whole."""
    with opened(clip.path) as container:
        stream = container.streams.best("video")
        step = max(1, round(1 / (clip.rate * clip.time_base)))
        last = -step
        for frame in _decoded(container, stream, damaged):
            time = frame.pts if frame.pts is not None else frame.dts  # AVI has the second only
            if time is None or time < 0 or time <= last:
                time = last + step
            frame.pts = last = time
            yield frame


def _decoded(container: av.container.InputContainer, stream: av.VideoStream, damaged: list[float]) -> Iterator[av.VideoFrame]:
    seconds = 0.0
    for packet in packets(container, [stream], damaged):
        try:
            for frame in packet.decode():
                seconds = frame.time or seconds
                if frame.is_corrupt:
                    damaged.append(seconds)
                yield frame
        except BROKEN:
            damaged.append(float(packet.pts * packet.time_base) if packet.pts is not None else seconds)


def packets(container: av.container.InputContainer, streams: Sequence[av.stream.Stream], damaged: list[float]) -> Iterator[av.Packet]:
    """Of these streams, as far as the file can be read; the last one of each is empty."""
    seconds = 0.0
    try:
        for packet in container.demux(*streams):
            seconds = seconds_of(packet) if packet.size else seconds
            yield packet
    except BROKEN:
        damaged.append(seconds)


def to_array(frame: av.VideoFrame, clip: Clip) -> np.ndarray:
    """The frame as RGB (H, W, 3) of the clip's size: uint8, or uint16 of a deep clip."""
    matrix, levels = (None, None) if frame.format.is_rgb else (MATRICES[clip.color[0]], clip.color[1])
    size = {"width": clip.width, "height": clip.height}
    kind = "rgb48le" if clip.deep else "rgb24"
    return frame.reformat(**size, format=kind, src_colorspace=matrix, src_color_range=levels, interpolation=SCALER).to_ndarray()


def seconds_of(packet: av.Packet) -> float:
    """When a packet is decoded, or shown where that is not known."""
    time = packet.dts if packet.dts is not None else packet.pts
    return float((time or 0) * packet.time_base)
