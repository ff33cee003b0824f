"""Videos written part by part, and joined without encoding again, through PyAV (FFmpeg); imported late, as it is optional."""

import heapq
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import av
import numpy as np

from data.videos.clip import MATRICES, SCALER, Clip, in_words, opened, packets, seconds_of

FORMATS = {".mp4": ("mp4", "libx264"), ".mov": ("mov", "libx264"), ".mkv": ("matroska", "libx264"), ".webm": ("webm", "libvpx-vp9")}
"""Ending -> the container that is written and the encoder of its pictures."""
PART = "nut"
"""The container of a part: unlike the others it keeps any time base, and times that do not begin at 0."""


class PartWriter:
    """Encodes pictures into a part that can be joined with others of the same settings without encoding again; whole when it is left.

    crf: H.264's, 0..51; VP9 counts in other steps and gets 8 more. There are no B-frames, so that packets follow each other as frames do.
    """

    def __init__(self, file: BinaryIO, clip: Clip, encoder: str, crf: int):
        self._file, self._clip, self._encoder, self._crf = file, clip, encoder, crf
        self._container: av.container.OutputContainer | None = None

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self._finish()

    def add(self, pts: int, pixels: np.ndarray) -> int:
        """pixels: RGB (H, W, 3) uint8 or uint16, the same even size every time; pts: in the clip's time base, and returned.

        Raises OSError (a full disk) and ValueError for what the encoder refuses.
        """
        with in_words(self._clip.path, "could not be encoded"):
            if self._container is None:
                self._start(*pixels.shape[:2])
            frame = av.VideoFrame.from_ndarray(pixels, "rgb48le" if self._clip.deep else "rgb24")
            matrix, levels = MATRICES[self._clip.color[0]], self._clip.color[1]
            frame = frame.reformat(
                format=self._stream.pix_fmt, dst_colorspace=matrix, dst_color_range=levels, interpolation=SCALER
            )
            frame.pts, frame.time_base = pts, self._clip.time_base
            self._container.mux(self._stream.encode(frame))
        return pts

    def _start(self, height: int, width: int) -> None:
        clip = self._clip
        options = {"crf": str(self._crf), "bf": "0", "x264-params": "stitchable=1"}
        if self._encoder != "libx264":
            options = {"crf": str(self._crf + 8), "b:v": "0", "cpu-used": "4", "row-mt": "1"}
        self._container = av.open(self._file, "w", format=PART)
        self._stream = self._container.add_stream(self._encoder, rate=clip.rate, options=options)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p10le" if clip.deep else "yuv420p"
        context = self._stream.codec_context
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = clip.color
        context.sample_aspect_ratio = clip.aspect
        context.time_base = self._stream.time_base = clip.time_base

    def _finish(self) -> None:
        with in_words(self._clip.path, "could not be encoded"):
            self._container.mux(self._stream.encode(None))
            self._container.close()


def check_encoder(ending: str) -> None:
    """Raises ValueError where this PyAV was built without the encoder for files of this ending."""
    encoder = FORMATS[ending][1]
    if encoder not in av.codec.codecs_available:
        raise ValueError(f"this PyAV has no encoder {encoder}, which {ending} needs; pip install av brings one that has it")


def tracks(container: av.container.InputContainer, ending: str) -> tuple[list[av.stream.Stream], list[str]]:
    """What goes beside the pictures: what a file of this ending takes as it is (sound, subtitles, fonts); the rest as "audio (opus)"."""
    video = container.streams.best("video")
    others = [stream for stream in container.streams if stream.index != video.index]
    taken = [stream for stream in others if stream.type in ("audio", "subtitle", "attachment") and _fits(stream, ending)]
    lost = [stream for stream in others if stream not in taken]
    return taken, [f"{stream.type} ({stream.codec_context.name if stream.codec_context else 'unknown'})" for stream in lost]


def _fits(stream: av.stream.Stream, ending: str) -> bool:
    """Tried out: some containers refuse a codec when it is added, others when the header is written."""
    try:
        with av.open(io.BytesIO(), "w", format=FORMATS[ending][0]) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (ValueError, av.FFmpegError):
        return False
    return True


def comment_of(path: Path) -> str:
    """What a video says of its origin, or nothing; never raises for a broken one."""
    try:
        with opened(path) as container:
            return container.metadata.get("comment") or container.metadata.get("COMMENT", "")
    except (ValueError, OSError):
        return ""


def join(parts: Sequence[Path], clip: Clip, file: BinaryIO, ending: str, comment: str) -> None:
    """Writes the pictures of the parts and the clip's other tracks, chapters and texts into one file; nothing is encoded.

    Raises OSError (a full disk) and ValueError for what the container refuses.
    """
    # Edit lists, which say when a track begins, are counted in these units.
    options = {"movie_timescale": str(clip.time_base.denominator)} if ending in (".mp4", ".mov") else {}
    with ExitStack() as stack:
        source, first = stack.enter_context(opened(clip.path)), stack.enter_context(opened(parts[0]))
        stack.enter_context(in_words(clip.path, "could not be joined"))
        with av.open(file, "w", format=FORMATS[ending][0], container_options=options) as target:
            video = target.add_stream_from_template(first.streams.video[0], opaque=True)
            video.time_base = clip.time_base
            video.metadata.update(source.streams.best("video").metadata)
            if clip.turn:
                video.set_display_matrix(clip.turn)
            copies = {}
            for stream in tracks(source, ending)[0]:
                copies[stream.index] = target.add_stream_from_template(stream)
                copies[stream.index].metadata.update(stream.metadata)
                copies[stream.index].disposition = stream.disposition
            texts = dict(source.metadata)
            target.metadata.update(texts | {"comment": "; ".join(filter(None, (texts.get("comment"), comment)))})
            target.set_chapters(source.chapters())
            for packet in _in_time(parts, source, copies):
                packet.stream = copies.get(packet.stream_index, video) if packet.stream.container is source else video
                target.mux(packet)


def _in_time(
    parts: Sequence[Path], source: av.container.InputContainer, copies: Mapping[int, av.stream.Stream]
) -> Iterator[av.Packet]:
    """All packets, those of different tracks beside each other, so that neither we nor players must hold many."""
    wanted = [stream for stream in source.streams if stream.index in copies and stream.type != "attachment"]
    others = (packet for packet in packets(source, wanted, []) if packet.size) if wanted else iter(())
    return heapq.merge(_pictures(parts), others, key=seconds_of)


def _pictures(parts: Sequence[Path]) -> Iterator[av.Packet]:
    """The parts' packets, each as long as the time to the next; the last as long as the one before."""
    held = None
    for part in parts:
        with opened(part) as container:
            for packet in container.demux(container.streams.video[0]):
                if packet.size:
                    if held is not None:
                        held.duration = packet.pts - held.pts
                        packet.duration = held.duration
                        yield held
                    held = packet
    if held is not None:
        yield held
