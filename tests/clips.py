"""Small videos, made by PyAV for the tests."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def flat(color: Sequence[int], size: tuple[int, int] = (24, 32)) -> np.ndarray:
    return np.full((*size, 3), color, np.uint8)


def picture(seed: int, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    """Smooth blobs, another for every seed."""
    y, x = np.mgrid[: size[0], : size[1]]
    wave = np.sin(x / (5 + seed % 5) + seed) + np.cos(y / 6)
    return (wave[..., None] * 50 + np.array([140, 120, 130])).astype(np.uint8)


def write_clip(
    path: Path,
    pictures: Sequence[np.ndarray],
    times: Sequence[int] | None = None,
    *,
    time_base: Fraction = Fraction(1, 1000),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    color: tuple[int, int, int, int] = (2, 0, 2, 2),
    turn: Sequence[int] | None = None,
    sound: str | None = None,
    subtitles: bool = False,
    aspect: Fraction = Fraction(1),
) -> None:
    """times: pts of the pictures, 40 ms apart by default. color: matrix, range, primaries, transfer of H.273. sound: an encoder."""
    height, width = pictures[0].shape[:2]
    with av.open(path, "w") as container:
        video = container.add_stream(codec, rate=25, options=dict(options or {"crf": "4"}))
        video.width, video.height, video.pix_fmt = width, height, pix_fmt
        context = video.codec_context
        context.time_base = video.time_base = time_base
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = color
        context.sample_aspect_ratio = aspect
        if turn:
            video.set_display_matrix(turn)
        audio = container.add_stream(sound, rate=48000) if sound else None
        if subtitles:
            texts = container.add_mux_stream("subrip")
        container.metadata["title"] = "a title"
        for pixels, pts in zip(pictures, times or range(0, 40 * len(pictures), 40), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame = frame.reformat(format=pix_fmt, dst_colorspace={2: 5, 6: 5}.get(color[0], color[0]), dst_color_range=color[1] or 1)
            frame.pts, frame.time_base = pts, time_base
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio:
            frame = av.AudioFrame.from_ndarray((np.arange(2 * 9600) % 500 * 20).astype(np.int16)[None], "s16", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
        if subtitles:
            for number in range(2):
                packet = av.Packet(f"words {number}".encode())
                packet.stream, packet.time_base = texts, Fraction(1, 1000)
                packet.pts = packet.dts = 100 * number
                packet.duration = 80
                container.mux(packet)


def frames_of(path: Path) -> list[av.VideoFrame]:
    with av.open(path) as container:
        return list(container.decode(container.streams.best("video")))


def times_of(path: Path) -> list[Fraction]:
    """Of the frames, in seconds."""
    return [frame.pts * frame.time_base for frame in frames_of(path)]


def packets_of(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    """(time, bytes) of the packets of the first stream of a kind."""
    with av.open(path) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in container.demux(stream) if packet.size]
