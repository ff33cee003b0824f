"""The pipeline: purity, sizes, order of operations, probabilities."""

import dataclasses

import cv2
import numpy as np
import pytest
from skimage import data

from degradations.blur import blur
from degradations.jpeg import jpeg_compress
from degradations.kernels import DrawnKernel, build_kernel
from degradations.noise import add_noise
from degradations.resize import resize
from degradations.second_order import apply, degrade, draw
from degradations.stage import KERNEL_FAMILIES, Degradation, DegradationStage

NOTHING = DegradationStage(blur_prob=0, resize_prob=(0, 0, 1), gaussian_noise_prob=1, noise_range=(0, 0), jpeg_prob=0)
IDENTITY = Degradation(stages=(NOTHING, NOTHING), final_sinc_prob=0)


@pytest.fixture(scope="module")
def hr() -> np.ndarray:
    return data.astronaut()[40:168, 160:320].astype(np.float32) / 255  # 128 x 160


def generator(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def to_8_bit_grid(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * 255) / 255


@pytest.mark.parametrize(("mode", "flag"), [("area", cv2.INTER_AREA), ("bilinear", cv2.INTER_LINEAR), ("bicubic", cv2.INTER_CUBIC)])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_identity_leaves_one_plain_resize(hr, mode, flag, scale):
    drawn = draw(generator(0), IDENTITY, (128, 160), scale)
    stages = (drawn.stages[0], dataclasses.replace(drawn.stages[1], resize=dataclasses.replace(drawn.stages[1].resize, mode=mode)))
    lr = apply(hr, dataclasses.replace(drawn, stages=stages))
    assert np.allclose(lr, to_8_bit_grid(cv2.resize(hr, (160 // scale, 128 // scale), interpolation=flag)), atol=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_shape_range_and_8_bit_grid(hr, seed):
    lr = degrade(hr, generator(seed))
    assert lr.shape == (32, 40, 3) and lr.dtype == np.float32
    levels = np.rint(lr * 255)
    assert levels.min() >= 0 and levels.max() <= 255
    assert np.array_equal(lr, levels.astype(np.float32) / np.float32(255))
    average = cv2.resize(hr, (40, 32), interpolation=cv2.INTER_AREA)  # still the same picture, in the same channel order:
    assert np.corrcoef(lr.ravel(), average.ravel())[0, 1] > 0.5
    assert np.abs(lr.mean((0, 1)) - average.mean((0, 1))).max() < 0.12


def test_pure_function_of_image_and_generator_state(hr):
    before = hr.copy()
    pictures = [degrade(hr, generator(7, n)) for n in range(6)]
    assert all(np.array_equal(picture, degrade(hr, generator(7, n))) for n, picture in enumerate(pictures))
    assert len({picture.tobytes() for picture in pictures}) == 6
    assert np.array_equal(hr, before)
    np.random.seed(0)  # the global state must play no part
    assert np.array_equal(degrade(hr, generator(7, 0)), pictures[0])


def test_apply_uses_nothing_but_the_drawn_parameters(hr):
    shared = generator(3)
    drawn = draw(shared, Degradation(), (128, 160), 4)
    state = shared.bit_generator.state
    lr = apply(hr, drawn)
    assert shared.bit_generator.state == state
    assert np.array_equal(lr, degrade(hr, generator(3)))
    assert hash(drawn) == hash(draw(generator(3), Degradation(), (128, 160), 4))
    for noise in (stage.noise for stage in drawn.stages):
        assert str(noise.seed) in repr(drawn) and repr(noise.level) in repr(drawn)  # repr is complete, str is for people


def test_flipped_and_float64_crops(hr):
    view = hr[:, ::-1]
    assert np.array_equal(degrade(view, generator(1)), degrade(np.ascontiguousarray(view), generator(1)))
    assert np.array_equal(degrade(hr.astype(np.float64), generator(1)), degrade(hr, generator(1)))


@pytest.mark.parametrize("order", ["resize, jpeg", "jpeg, resize"])
def test_order_of_operations_written_out(hr, order):
    drawn = dataclasses.replace(draw(generator(11), Degradation(final_sinc_prob=1), (128, 160), 4), final_order=order)
    kernel = DrawnKernel(family="iso", size=9, sigma_x=1.3, sigma_y=1.3)
    drawn = dataclasses.replace(drawn, stages=tuple(dataclasses.replace(stage, kernel=kernel) for stage in drawn.stages))
    first, second = drawn.stages
    image = blur(hr, build_kernel(first.kernel))
    image = jpeg_compress(add_noise(resize(image, first.resize), first.noise), first.jpeg_quality)
    image = blur(image, build_kernel(second.kernel))
    image = add_noise(resize(image, second.resize), second.noise)
    sinc = build_kernel(drawn.final_sinc)
    if order == "resize, jpeg":
        image = jpeg_compress(blur(resize(image, drawn.final_resize), sinc), second.jpeg_quality)
    else:
        image = blur(resize(jpeg_compress(image, second.jpeg_quality), drawn.final_resize), sinc)
    assert np.allclose(apply(hr, drawn), to_8_bit_grid(image), atol=1e-6)


@pytest.mark.slow
def test_draw_follows_the_probabilities():
    shared = generator(0)
    draws = [draw(shared, Degradation(), (512, 512), 4) for _ in range(3000)]

    def share(condition) -> float:
        return float(np.mean([condition(drawn) for drawn in draws]))

    assert share(lambda d: d.stages[0].kernel is None) == 0
    assert share(lambda d: d.stages[1].kernel is None) == pytest.approx(0.2, abs=0.025)
    assert share(lambda d: d.final_sinc is None) == pytest.approx(0.2, abs=0.025)
    assert share(lambda d: d.final_order == "jpeg, resize") == pytest.approx(0.5, abs=0.03)
    assert share(lambda d: d.stages[0].resize.direction == "down") == pytest.approx(0.7, abs=0.03)
    assert share(lambda d: d.stages[1].resize.direction == "keep") == pytest.approx(0.3, abs=0.03)
    for number in range(2):
        qualities = [d.stages[number].jpeg_quality for d in draws]
        assert (min(qualities), max(qualities)) == (30, 95) and np.mean(qualities) == pytest.approx(62.5, abs=1.2)
    assert max(d.stages[1].kernel.sigma_x for d in draws if d.stages[1].kernel and d.stages[1].kernel.family != "sinc") <= 1.5
    # The second pass resizes relative to HR / 4 = 128, whatever the first did:
    assert all(int(128 * 0.3) <= d.stages[1].resize.height <= int(128 * 1.2) for d in draws)
    assert all(d.final_resize.height == 128 and d.hr_size == (512, 512) for d in draws)
    assert all(d.final_sinc.omega >= np.pi / 3 for d in draws if d.final_sinc)


def test_probabilities_of_one():
    stage = DegradationStage(sinc_prob=1, jpeg_prob=0, gaussian_noise_prob=0)
    drawn = draw(generator(0), Degradation(stages=(stage, stage), final_sinc_prob=0), (64, 64), 4)
    assert all(s.kernel.family == "sinc" and s.jpeg_quality is None and s.noise.kind == "poisson" for s in drawn.stages)
    assert drawn.final_sinc is None


EVERYTHING = DegradationStage(sinc_prob=0.5, resize_prob=(0.4, 0.4, 0.2), blur_prob=1, gray_noise_prob=0.5)
SWITCHES = {
    "blur_prob": lambda s: s.kernel is not None,
    "sinc_prob": lambda s: s.kernel is not None and s.kernel.family == "sinc",
    "gaussian_noise_prob": lambda s: s.noise.kind == "gaussian",
    "gray_noise_prob": lambda s: s.noise.grey,
    "jpeg_prob": lambda s: s.jpeg_quality is not None,
    **{f"resize_prob {way}": lambda s, way=way: s.resize.direction == way for way in ("up", "down", "keep")},
    **{f"kernel_prob {name}": lambda s, name=name: s.kernel is not None and s.kernel.family == name for name in KERNEL_FAMILIES},
}
"""What a probability of a stage is of."""


def switched_off(name: str) -> DegradationStage:
    """EVERYTHING without what `name` stands for; the other resizes or kernels share its probability."""
    key, _, outcome = name.partition(" ")
    if not outcome:
        return dataclasses.replace(EVERYTHING, **{key: 0.0})
    outcomes = ("up", "down", "keep") if key == "resize_prob" else KERNEL_FAMILIES
    return dataclasses.replace(EVERYTHING, **{key: tuple(float(other != outcome) / (len(outcomes) - 1) for other in outcomes)})


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("name", SWITCHES)
def test_a_probability_of_zero_switches_that_off_in_its_pass_alone(name, number):
    stages = [EVERYTHING, EVERYTHING]
    stages[number] = switched_off(name)
    draws = [draw(generator(5, n), Degradation(stages=tuple(stages)), (64, 64), 4) for n in range(300)]
    assert not any(SWITCHES[name](drawn.stages[number]) for drawn in draws)
    assert any(SWITCHES[name](drawn.stages[1 - number]) for drawn in draws)
    dependent = {"sinc_prob", *(other for other in SWITCHES if other.startswith("kernel_prob"))} if name == "blur_prob" else set()
    for other in SWITCHES.keys() - {name} - dependent:
        assert any(SWITCHES[other](drawn.stages[number]) for drawn in draws), other


def test_no_final_sinc_and_the_rest_stays_as_it_was():
    for n in range(100):
        with_sinc, without = (draw(generator(5, n), Degradation(final_sinc_prob=p), (64, 64), 4) for p in (1.0, 0.0))
        assert with_sinc.final_sinc is not None and without.final_sinc is None
        assert with_sinc.stages == without.stages and with_sinc.final_resize == without.final_resize


@pytest.mark.parametrize("num_stages", [1, 3])
def test_any_number_of_stages(hr, num_stages):
    degradation = Degradation(stages=(DegradationStage(),) * num_stages)
    drawn = draw(generator(0), degradation, (128, 160), 4)
    assert len(drawn.stages) == num_stages
    assert apply(hr, drawn).shape == (32, 40, 3)


@pytest.mark.parametrize("size", [(4, 4), (4, 8), (8, 20)])
def test_tiny_pictures(size):
    image = generator(0).random((*size, 3), dtype=np.float32)
    for seed in range(40):
        assert degrade(image, generator(seed)).shape == (size[0] // 4, size[1] // 4, 3)


def test_mistakes_are_explained(hr):
    with pytest.raises(ValueError, match="126x128.*multiples of scale 4"):
        degrade(hr[:, :126], generator(0))
    with pytest.raises(ValueError, match="multiples of scale 3"):
        draw(generator(0), Degradation(), (128, 160), 3)
    with pytest.raises(ValueError, match="float .*uint8"):
        degrade((hr * 255).astype(np.uint8), generator(0))
    with pytest.raises(ValueError, match=r"drawn for \(128, 160\)"):
        apply(hr[:64], draw(generator(0), Degradation(), (128, 160), 4))


def test_text_lists_the_operations_in_order(hr):
    drawn = draw(generator(2), Degradation(final_sinc_prob=1), (128, 160), 4)
    for order, expected in (("jpeg, resize", ["jpeg", "resize", "filter"]), ("resize, jpeg", ["resize", "filter", "jpeg"])):
        lines = str(dataclasses.replace(drawn, final_order=order)).splitlines()
        assert [line.split()[0] for line in lines[-3:]] == expected
        assert [line for line in lines if line.startswith("pass")] == ["pass 1", "pass 2"]
        assert f"  jpeg {drawn.stages[1].jpeg_quality}" in lines
    empty = str(draw(generator(0), IDENTITY, (128, 160), 4))
    assert "no blur" in empty and "no jpeg" in empty and "no final filter" in empty
