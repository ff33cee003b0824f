"""Videos: the same pictures at the same times with the same sound, in parts that a run goes on from. The network is a plain enlargement."""

import builtins
import errno
import os
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

from data.image_io import write_image  # noqa: E402
from models.generator import load_generator  # noqa: E402
from restoring import video  # noqa: E402
from restoring.outcome import reason  # noqa: E402
from restoring.pictures import Restoration, enlarge_array, restore_array  # noqa: E402
from test_d3sr import main  # noqa: E402
from tests.clips import flat, frames_of, packets_of, picture, times_of, write_clip  # noqa: E402
from tests.restoring_script import write_option_file, write_weights  # noqa: E402

by_four = Restoration(scale=4).output_size
TIMES = [0, 40, 90, 130, 200, 240, 250, 333, 400, 444, 480, 560]


def twice(pixels: np.ndarray) -> np.ndarray:
    return pixels.repeat(2, 0).repeat(2, 1)


def restore(
    clip: Path,
    output: Path,
    enlarge: Callable[[np.ndarray], np.ndarray] = twice,
    *,
    scale: float = 2,
    key: str = "key",
    overwrite: bool = False,
    rank: int = 0,
    processes: int = 1,
) -> tuple[int, list[str]]:
    """Exit status and what was said."""
    said: list[str] = []
    found = video.find_videos([clip], output, alone=True, suffix="", max_megapixels=100, output_size=Restoration(scale=scale).output_size)
    how = video.Run(restore=enlarge, settings_key=key, quality=95, overwrite=overwrite, rank=rank, processes=processes)
    status = video.restore_videos(
        found, how, gather=lambda value: [value], reason=partial(reason, tile=0), warn=said.append
    )
    return status, said


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "SEGMENT", 5)


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
def test_every_frame_keeps_its_time_and_the_sound_its_bytes(tmp_path: Path, ending: str) -> None:
    clip, output = tmp_path / f"clip{ending}", tmp_path / "results" / f"out{ending}"
    pictures = [picture(index) for index in range(12)]
    write_clip(clip, pictures, TIMES, sound="aac", aspect=Fraction(4, 3))
    assert restore(clip, output) == (0, [f"video in {output}"])
    assert times_of(output) == times_of(clip) == [Fraction(time, 1000) for time in TIMES]
    assert packets_of(output, "audio") == packets_of(clip, "audio") != []
    for before, after, frame in zip(pictures, frames_of(output), frames_of(clip), strict=True):
        assert (after.width, after.height) == (64, 48)
        assert np.abs(after.to_ndarray(format="rgb24").astype(int) - twice(frame.to_ndarray(format="rgb24"))).mean() < 3
        assert np.abs(after.to_ndarray(format="rgb24").astype(int) - twice(before)).mean() < 6
    with video.opened(output) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        assert container.metadata["title"] == "a title"
    assert sorted(path.name for path in output.parent.iterdir()) == [output.name]


def test_times_that_begin_late_in_an_uneven_time_base(tmp_path: Path) -> None:
    clip, output = tmp_path / "clip.mp4", tmp_path / "out.mp4"
    times = [10, 11, 12, 15, 16, 20, 21]
    write_clip(clip, [picture(index) for index in times], times, time_base=Fraction(1001, 30000), sound="aac")
    restore(clip, output)
    assert times_of(output) == times_of(clip)
    assert packets_of(output, "audio") == packets_of(clip, "audio")


def test_b_frames_come_in_the_order_of_their_times(tmp_path: Path) -> None:
    clip, output = tmp_path / "clip.mkv", tmp_path / "out.mp4"
    colors = [(20 * index, 100, 255 - 20 * index) for index in range(12)]
    write_clip(clip, [flat(color) for color in colors], options={"crf": "4", "bf": "3", "x264-params": "b-adapt=0"})
    restore(clip, output)
    seen = [frame.to_ndarray(format="rgb24").mean((0, 1)) for frame in frames_of(output)]
    assert np.abs(np.array(seen) - colors).max() < 4


@pytest.mark.parametrize(("ending", "codec"), [(".avi", "mpeg4"), (".webm", "libvpx-vp9"), (".mkv", "ffv1")])
def test_other_containers_and_codecs(tmp_path: Path, ending: str, codec: str) -> None:
    clip, output = tmp_path / f"clip{ending}", tmp_path / f"out{'.webm' if ending == '.webm' else '.mp4'}"
    write_clip(clip, [picture(1)] * 7, range(7), time_base=Fraction(1, 25), codec=codec, options={})
    assert restore(clip, output)[0] == 0
    assert [float(time) for time in times_of(output)] == pytest.approx([index / 25 for index in range(7)], abs=5e-4)


KR_KB = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def yuv_of(color: tuple[int, int, int], matrix: int, full: bool) -> np.ndarray:
    """H.273's formulas, 8 bit."""
    red, green, blue = (level / 255 for level in color)
    kr, kb = KR_KB[matrix]
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    u, v = (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)
    return np.array([255 * luma, 128 + 255 * u, 128 + 255 * v] if full else [16 + 219 * luma, 128 + 224 * u, 128 + 224 * v])


def planes_of(path: Path) -> list[float]:
    frame = frames_of(path)[0]
    planes = [np.frombuffer(bytes(plane), np.uint8).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes]
    return [float(plane.mean()) for plane in planes]


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("matrix", [1, 5, 6, 9])
def test_colours_and_their_names_are_the_input_s(tmp_path: Path, matrix: int, levels: int) -> None:
    clip, output, color = tmp_path / "clip.mp4", tmp_path / "out.mp4", (200, 40, 90)
    write_clip(clip, [flat(color)], color=(matrix, levels, 9, 16))
    seen = []
    restore(clip, output, lambda pixels: seen.append(pixels) or twice(pixels))
    assert np.abs(seen[0].astype(int) - color).max() <= 2
    assert np.abs(np.array(planes_of(output)) - yuv_of(color, matrix, levels == 2)).max() < 2
    frame = frames_of(output)[0]
    assert (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) == (matrix, levels, 9, 16)


def test_an_unnamed_matrix_is_named_so_that_a_larger_picture_is_not_taken_for_another(tmp_path: Path) -> None:
    clip, output = tmp_path / "clip.mp4", tmp_path / "out.mp4"
    write_clip(clip, [flat((200, 40, 90))])
    assert frames_of(clip)[0].colorspace == 2
    restore(clip, output)
    assert frames_of(output)[0].colorspace == 6
    assert np.abs(np.array(planes_of(output)) - planes_of(clip)).max() < 1.5


def test_ten_bit_stay_ten_bit(tmp_path: Path) -> None:
    clip, output, kinds = tmp_path / "clip.mp4", tmp_path / "out.mp4", []
    write_clip(clip, [picture(0)] * 2, pix_fmt="yuv420p10le")
    restore(clip, output, lambda pixels: kinds.append(pixels.dtype) or twice(pixels))
    assert kinds == [np.uint16] * 2 and frames_of(output)[0].format.name == "yuv420p10le"


def test_a_turned_video_stays_turned(tmp_path: Path) -> None:
    clip, output = tmp_path / "clip.mp4", tmp_path / "out.mp4"
    write_clip(clip, [picture(0)] * 2, turn=(0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30))
    restore(clip, output)
    assert frames_of(output)[0].rotation == frames_of(clip)[0].rotation != 0


def test_odd_sides_become_even(tmp_path: Path) -> None:
    clip, output = tmp_path / "clip.mp4", tmp_path / "out.mp4"
    write_clip(clip, [picture(0, (22, 30))])
    status, said = restore(clip, output, lambda pixels: np.pad(pixels, ((0, 11), (0, 15), (0, 0)), "edge"), scale=1.5)
    assert status == 0 and f"{clip}: 45x33 is made 46x34, as sides must be even" in said
    assert (frames_of(output)[0].width, frames_of(output)[0].height) == (46, 34)


class StoppedError(RuntimeError):
    pass


def stop_after(count: int) -> Callable[[np.ndarray], np.ndarray]:
    left = [count]

    def enlarge(pixels: np.ndarray) -> np.ndarray:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return twice(pixels)

    return enlarge


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    clip, output, whole = tmp_path / "clip.mkv", tmp_path / "out.mp4", tmp_path / "whole.mp4"
    write_clip(clip, [picture(index) for index in range(12)], TIMES, sound="aac")
    restore(clip, whole)
    with pytest.raises(KeyboardInterrupt):
        restore(clip, output, stop_after(8))
    assert not output.exists() and len(list((tmp_path / "out.mp4.parts").iterdir())) == 1
    calls = []
    restore(clip, output, lambda pixels: calls.append(1) or twice(pixels))
    assert len(calls) == 12 - 5
    assert output.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "out.mp4.parts").exists()


@pytest.mark.parametrize(("key", "color"), [("other", (200, 0, 0)), ("key", (0, 0, 200))])
def test_parts_of_other_settings_or_of_another_video_are_not_taken(tmp_path: Path, key: str, color: tuple[int, int, int]) -> None:
    clip, output = tmp_path / "clip.mkv", tmp_path / "out.mp4"
    write_clip(clip, [flat((200, 0, 0))] * 12)
    with pytest.raises(KeyboardInterrupt):
        restore(clip, output, stop_after(8), key="key")
    write_clip(clip, [flat(color)] * 12)
    calls: list[int] = []
    restore(clip, output, lambda pixels: calls.append(1) or twice(pixels), key=key)
    assert len(calls) == 12
    assert all(np.abs(frame.to_ndarray(format="rgb24").astype(int) - color).max() < 5 for frame in frames_of(output))
    assert not (tmp_path / "out.mp4.parts").exists()


def test_what_lies_among_the_parts_and_is_not_ours_stays(tmp_path: Path) -> None:
    clip, output = tmp_path / "clip.mkv", tmp_path / "out.mp4"
    write_clip(clip, [picture(0)] * 2)
    (tmp_path / "out.mp4.parts").mkdir()
    (tmp_path / "out.mp4.parts" / "notes.txt").write_text("mine", encoding="utf-8")
    restore(clip, output)
    assert [path.name for path in (tmp_path / "out.mp4.parts").iterdir()] == ["notes.txt"]


def test_a_result_that_exists_is_kept_and_told_from_others(tmp_path: Path) -> None:
    clip, output = tmp_path / "clip.mkv", tmp_path / "out.mkv"
    write_clip(clip, [picture(0)] * 2)
    restore(clip, output)
    before = output.read_bytes()
    assert [len(restore(clip, output, key=key)[1]) for key in ("key", "other")] == [1, 2]
    assert output.read_bytes() == before


def test_two_processes_share_the_parts(tmp_path: Path) -> None:
    clip, output, whole = tmp_path / "clip.mkv", tmp_path / "out.mp4", tmp_path / "whole.mp4"
    write_clip(clip, [picture(index) for index in range(12)])
    restore(clip, whole)
    calls: list[int] = []
    restore(clip, output, lambda pixels: calls.append(1) or twice(pixels), rank=1, processes=2)
    assert len(calls) == 5 and not output.exists()
    restore(clip, output, lambda pixels: calls.append(1) or twice(pixels), rank=0, processes=2)
    assert len(calls) == 12 and output.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(("at", "lost"), [(0, {6, 7}), (30, set())])
def test_damage_is_named_by_its_time_and_the_rest_is_restored(tmp_path: Path, at: int, lost: set[int]) -> None:
    """In a packet's head it loses the frame, further on the decoder conceals it."""
    clip, output = tmp_path / "clip.mkv", tmp_path / "out.mp4"
    write_clip(clip, [picture(index, (96, 128)) for index in range(12)], options={"crf": "4", "g": "1"})
    damaged = bytearray(clip.read_bytes())
    for _, packet in packets_of(clip, "video")[6:8]:
        begin = damaged.index(packet) + at
        damaged[begin : begin + 8] = bytes(8)
    clip.write_bytes(damaged)
    status, said = restore(clip, output)
    assert status == 1 and said[-1] == f"failed: {clip}: damaged in 2 places, the first at 0.24 s; the rest is restored"
    assert times_of(output) == [Fraction(40 * index, 1000) for index in range(12) if index not in lost]


def test_a_cut_off_video_is_restored_as_far_as_it_goes(tmp_path: Path) -> None:
    clip, output = tmp_path / "clip.mkv", tmp_path / "out.mp4"
    write_clip(clip, [picture(index) for index in range(12)], [500 * index for index in range(12)])
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    _, said = restore(clip, output)
    assert 2 <= len(frames_of(output)) < 12 and "is the file cut off?" in " ".join(said)


@pytest.mark.parametrize("content", [b"", b"no video", b"#EXTM3U\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n"])
def test_what_is_no_video_is_said(tmp_path: Path, content: bytes) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(content)
    write_clip(tmp_path / "other.mp4", [picture(0)])
    with pytest.raises(ValueError, match=r"clip.mp4: no video that can be read"):
        restore(clip, tmp_path / "out.mp4")


def test_a_pipe_is_no_video(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match="clip.mp4: not a file"):
        restore(tmp_path / "clip.mp4", tmp_path / "out.mp4")


def test_sound_that_the_container_cannot_hold_is_refused_before_any_work(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mov"
    write_clip(clip, [picture(0)], sound="pcm_s16le")
    with pytest.raises(ValueError, match=r"audio \(pcm_s16le\) cannot be copied into .webm as it is; write to out.mkv instead"):
        restore(clip, tmp_path / "out.webm")
    assert restore(clip, tmp_path / "out.mkv")[0] == 0
    assert [data for _, data in packets_of(tmp_path / "out.mkv", "audio")] == [data for _, data in packets_of(clip, "audio")]


def test_subtitles_are_copied_or_named(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mkv"
    write_clip(clip, [picture(0)] * 6, subtitles=True)
    assert restore(clip, tmp_path / "out.mkv") == (0, [f"video in {tmp_path / 'out.mkv'}"])
    assert packets_of(tmp_path / "out.mkv", "subtitle") == packets_of(clip, "subtitle") != []
    assert f"{clip}: left out, since .mp4 cannot hold it as it is: subtitle (srt)" in restore(clip, tmp_path / "out.mp4")[1]


def test_a_full_disk_is_one_line_and_the_whole_parts_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, output = tmp_path / "clip.mkv", tmp_path / "out.mp4"
    write_clip(clip, [picture(index) for index in range(12)])
    whole, opened = video.whole_file, []

    class FullDisk:
        def __init__(self, file):
            self.file = file

        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    class Part:
        def __init__(self, path: Path):
            self.inner = whole(path)

        def __enter__(self):
            opened.append(1)
            file = self.inner.__enter__()
            return FullDisk(file) if len(opened) == 2 else file

        def __exit__(self, *error):
            return self.inner.__exit__(*error)

    monkeypatch.setattr(video, "whole_file", Part)
    status, said = restore(clip, output)
    assert status == 1 and len(said) == 1 and "No space left on device" in said[0] and "the whole parts stay in" in said[0]
    assert [path.suffix for path in (tmp_path / "out.mp4.parts").iterdir()] == [".nut"]
    assert restore(clip, output)[0] == 0


def test_noise_is_not_made_much_more_from_frame_to_frame(tmp_path: Path) -> None:
    """What docs/video.md measures as flicker: of a still picture with noise, smooth as here, 1.2 times bicubic's."""
    noise = np.random.default_rng(0)
    frames = [(picture(0) + noise.normal(0, 2, (24, 32, 3))).round().astype(np.uint8) for _ in range(2)]
    generator = load_generator("weights/d3sr-tiny")
    ours = [restore_array(generator, frame, Restoration(scale=4), pytest.fail).astype(int) for frame in frames]
    bicubic = [enlarge_array(frame, (4 * frame.shape[0], 4 * frame.shape[1])).astype(int) for frame in frames]
    assert 0 < np.abs(ours[0] - ours[1]).mean() < 1.5 * np.abs(bicubic[0] - bicubic[1]).mean()


def arguments(tmp_path: Path) -> list[str]:
    option_file = write_option_file(tmp_path, write_weights(tmp_path / "weights"))
    return ["-opt", str(option_file), "-i", str(tmp_path / "clip.mp4"), "-o", str(tmp_path / "out.mp4")]


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(tmp_path / "clip.mp4", [picture(index, (12, 16)) for index in range(3)], [0, 40, 90])
    command = arguments(tmp_path)
    assert main([*command, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "clip.mp4: 16x12, about 3 frames, 0.1 s, " in shown and f" a second -> {tmp_path / 'out.mp4'}, 64x48" in shown
    assert not (tmp_path / "out.mp4.parts").exists()
    assert main(command) == 0
    assert [(frame.width, frame.height) for frame in frames_of(tmp_path / "out.mp4")] == [(64, 48)] * 3
    assert times_of(tmp_path / "out.mp4") == times_of(tmp_path / "clip.mp4")


def test_videos_and_pictures_together(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", [picture(0, (12, 16))])
    write_image(tmp_path / "photo.png", picture(0, (12, 16)))
    command = arguments(tmp_path)
    assert main([*command[:4], str(tmp_path / "photo.png"), "-o", str(tmp_path / "OUT")]) == 0
    assert sorted(path.name for path in (tmp_path / "OUT").iterdir()) == ["clip.mp4", "photo.png"]


def test_a_folder_that_cannot_be_written_is_found_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    write_clip(tmp_path / "clip.mp4", [picture(0, (12, 16))])
    (tmp_path / "file").touch()
    monkeypatch.setattr("restoring.run.load", lambda *_: pytest.fail("weights were loaded"))
    for output in ("file", "file/out.mp4"):
        assert main([*arguments(tmp_path)[:4], "-o", str(tmp_path / output)]) == 2
        assert f"{tmp_path}/file: nothing can be written there" in capsys.readouterr().err


def test_names_of_results(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    write_clip(clip, [picture(0)])
    for arguments, problem in (
        ((clip, True), "would replace an input"),
        ((tmp_path / "out.avi", True), "videos are written as .mp4, .mov, .mkv, .webm"),
        ((tmp_path / "out.png", True), "videos are written as .mp4, .mov, .mkv, .webm"),
        ((tmp_path / "out.mp4", False), "several inputs need a folder"),
        ((tmp_path / "out.png", False), "several inputs need a folder"),
    ):
        with pytest.raises(ValueError, match=problem):
            video.find_videos([clip], arguments[0], alone=arguments[1], suffix="", max_megapixels=100, output_size=by_four)
    found = video.find_videos([clip, clip], tmp_path / "out", alone=False, suffix="_x4", max_megapixels=100, output_size=by_four)
    assert [item.output.name for item in found] == ["clip_x4.mp4", "clip_mp4_x4.mp4"]
    (tmp_path / "folder.mp4").mkdir()
    found = video.find_videos([clip], tmp_path / "folder.mp4", alone=True, suffix="", max_megapixels=100, output_size=by_four)
    assert found[0].output == tmp_path / "folder.mp4/clip.mp4"
    with pytest.raises(ValueError, match="32x24 is above max_megapixels: 0.0001"):
        video.find_videos([clip], tmp_path / "out", alone=True, suffix="", max_megapixels=0.0001, output_size=by_four)


def test_without_pyav_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"")
    real = builtins.__import__

    def without(name: str, *rest, **more):
        if name == "restoring" and rest and rest[2] == ("video",):
            raise ModuleNotFoundError("No module named 'av'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(arguments(tmp_path)) == 2
    assert capsys.readouterr().err == (
        f"test_d3sr.py: {tmp_path / 'clip.mp4'}: videos need PyAV: pip install av (No module named 'av')\n"
    )
