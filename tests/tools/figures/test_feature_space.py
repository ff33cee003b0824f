"""PCA against the eigenvectors of the covariance, LLE on a plane whose coordinates are known, and what the head is really shown."""

import numpy as np
import pytest
import torch

from models.backbones import trunk_features
from models.diffusion import forward_diffusion, scaled_linear_alphas_cumprod
from tests.tiny_models import discriminator_of, noise_like, write_sdxl_base, write_tiny_base
from tools.figures.feature_space import lle, pca, separability, standardized
from tools.figures.trunk_features import trunk_means


def points(count: int, dimensions: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (count, dimensions)) * np.linspace(3, 0.5, dimensions)


def test_pca_projects_on_the_eigenvectors_of_the_covariance() -> None:
    features = points(40, 6) + 5
    values, vectors = np.linalg.eigh(np.cov(features, rowvar=False))
    found = pca(features)
    expected = (features - features.mean(0)) @ vectors[:, ::-1][:, :2]
    assert np.abs(found) == pytest.approx(np.abs(expected), abs=1e-9)
    assert found.var(axis=0, ddof=1) == pytest.approx(values[::-1][:2])
    assert (found.max(axis=0) == np.abs(found).max(axis=0)).all(), "the sign is fixed"


def test_lle_unrolls_a_plane_that_lies_in_many_dimensions() -> None:
    generator = np.random.default_rng(1)
    plane = generator.uniform(0, 1, (150, 2))
    basis, _ = np.linalg.qr(generator.normal(0, 1, (10, 10)))
    found = lle(plane @ basis[:2])
    design = np.column_stack([plane, np.ones(150)])
    solution, *_ = np.linalg.lstsq(design, found, rcond=None)
    rest = found - design @ solution
    assert 1 - rest.var(axis=0) / found.var(axis=0) == pytest.approx([1, 1], abs=0.02), "an affine map of the coordinates"
    assert found.mean(axis=0) == pytest.approx([0, 0], abs=1e-6) and found.T @ found / 150 == pytest.approx(np.eye(2), abs=1e-6)


def test_few_points_have_few_neighbours() -> None:
    assert np.isfinite(lle(points(5, 20))).all() and lle(np.ones((4, 3))).shape == (4, 2)


def test_standardized_leaves_no_dimension_louder_than_another() -> None:
    found = standardized(np.column_stack([points(30, 2) * [1000, 0.01], np.full(30, 7.0)]))
    assert found.std(axis=0) == pytest.approx([1, 1, 0]) and found.mean(axis=0) == pytest.approx([0, 0, 0], abs=1e-12)


def test_separability_is_one_for_clouds_apart_and_a_half_where_pairs_differ_by_chance() -> None:
    content, noise = np.random.default_rng(0).normal(0, 1, (2, 100, 4))
    assert separability(content, content + 20) == 1.0
    assert separability(content, content + 0.01 * noise) == pytest.approx(0.5, abs=0.12), "a pair shows the same, which decides nothing"
    # Without the first pair the means are 2 and 4: 0 is right, 0.5 is nearer to 2. Without the second 0 and 0.5: 2 is wrong, 4 is right.
    assert separability(np.array([[0.0], [2.0]]), np.array([[0.5], [4.0]])) == 0.5


@pytest.mark.parametrize("write", [write_tiny_base, write_sdxl_base])
def test_features_are_the_mid_blocks_of_the_noised_latents(tmp_path, write) -> None:
    discriminator = discriminator_of(str(write(tmp_path)), prompt_tokens=4, head_channels=8, image_size=64).eval()
    channels = discriminator.trunk.config.in_channels
    z, noise, table = noise_like(2, channels, 16, 16), noise_like(2, channels, 16, 16, seed=1), scaled_linear_alphas_cumprod()
    found = trunk_means(discriminator, z, 300, noise, table, channels=5)
    z_t = forward_diffusion(z, 300, noise, table)
    prompt = discriminator.prompt_embedding.expand(2, -1, -1)
    pooled = discriminator.pooled_embedding
    added = None if pooled is None else {"text_embeds": pooled.expand(2, -1), "time_ids": discriminator.time_ids.expand(2, -1)}
    with torch.no_grad():
        expected = trunk_features(discriminator.trunk, z_t, torch.tensor([300, 300]), prompt, added)[-1].mean((2, 3))[:, :5]
    assert found == pytest.approx(expected.numpy(), abs=1e-5)
