"""Defaults against the published x4plus numbers; every impossible value is refused by the name of its key."""

import dataclasses
import re

import pytest

from degradations.stage import Degradation, DegradationStage


def test_defaults_are_real_esrgan_x4plus():
    first, second = Degradation().stages
    assert Degradation().final_sinc_prob == 0.8
    assert (first.blur_prob, second.blur_prob) == (1.0, 0.8)
    assert (first.resize_prob, second.resize_prob) == ((0.2, 0.7, 0.1), (0.3, 0.4, 0.3))
    assert (first.resize_range, second.resize_range) == ((0.15, 1.5), (0.3, 1.2))
    assert (first.noise_range, second.noise_range) == ((1, 30), (1, 25))
    assert (first.poisson_scale_range, second.poisson_scale_range) == ((0.05, 3), (0.05, 2.5))
    assert (first.blur_sigma, second.blur_sigma) == ((0.2, 3), (0.2, 1.5))
    for stage in (first, second):
        assert stage.kernel_list == ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
        assert stage.kernel_prob == (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
        assert (stage.kernel_range, stage.betag_range, stage.betap_range) == ((7, 21), (0.5, 4), (1, 2))
        assert (stage.sinc_prob, stage.gaussian_noise_prob, stage.gray_noise_prob) == (0.1, 0.5, 0.4)
        assert (stage.jpeg_prob, stage.jpeg_range) == (1.0, (30, 95))


def test_frozen_and_keyword_only():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Degradation().final_sinc_prob = 0.5
    with pytest.raises(TypeError):
        DegradationStage(1.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("blur_prob", -0.1),
        ("blur_prob", float("nan")),
        ("sinc_prob", 1.5),
        ("gaussian_noise_prob", 2),
        ("gray_noise_prob", -1),
        ("jpeg_prob", 1.01),
        ("kernel_list", ("iso", "gauss")),
        ("kernel_list", ()),
        ("kernel_prob", (1.0,)),
        ("kernel_prob", (0.45, 0.25, 0.12, 0.03, 0.12, 0.04)),
        ("kernel_prob", (1.5, -0.5, 0, 0, 0, 0)),
        ("kernel_range", (8, 21)),
        ("kernel_range", (21, 7)),
        ("kernel_range", (1, 21)),
        ("blur_sigma", (0.0, 3.0)),
        ("blur_sigma", (3.0, 0.2)),
        ("betag_range", (1.5, 4.0)),
        ("betap_range", (0.5, 0.9)),
        ("resize_prob", (0.5, 0.5)),
        ("resize_prob", (0.5, 0.5, 0.5)),
        ("resize_range", (0.0, 1.5)),
        ("resize_range", (1.1, 1.5)),
        ("resize_range", (0.5, 0.9)),
        ("noise_range", (-1, 30)),
        ("noise_range", (30, 1)),
        ("noise_range", (1, 300)),
        ("noise_range", (1, float("nan"))),
        ("poisson_scale_range", (-0.1, 1)),
        ("jpeg_range", (0, 95)),
        ("jpeg_range", (30, 101)),
        ("jpeg_range", (30.5, 95)),
    ],
)
def test_impossible_values_are_refused_by_name(key, value):
    named = "kernel_prob" if value == () else key  # an empty list leaves six probabilities for no kernel
    with pytest.raises(ValueError, match=f"^{re.escape(named)}: "):
        DegradationStage(**{key: value})


def test_whole_pipeline_is_checked_too():
    with pytest.raises(ValueError, match="^final_sinc_prob: "):
        Degradation(final_sinc_prob=1.2)
    with pytest.raises(ValueError, match="^stages: "):
        Degradation(stages=())
