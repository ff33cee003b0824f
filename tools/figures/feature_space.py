"""Fig. 2 of D3SR (Fig. 3 of DFOSD): what a discriminator's trunk makes of real and of generated latents, brought down to two dimensions."""

import numpy as np
import torch
from torch import Tensor

from models.diffusion import forward_diffusion
from models.discriminator import Discriminator

NEIGHBOURS, REGULARIZATION = 12, 1e-3


@torch.no_grad()
def trunk_means(discriminator: Discriminator, z: Tensor, timestep: int, noise: Tensor, alphas_cumprod: Tensor, channels: int) -> np.ndarray:
    """What the last head is shown of F(z, t), averaged over the positions: the first channels of the mid block, float64 (N, channels).

    z, noise: (N, C, h, w). Fewer channels come out where the trunk has fewer.
    """
    timesteps = torch.full((len(z),), timestep, device=z.device)
    features = discriminator.features(forward_diffusion(z, timesteps, noise, alphas_cumprod), timesteps)[-1]
    return features.float().mean((2, 3))[:, :channels].double().cpu().numpy()


def standardized(features: np.ndarray) -> np.ndarray:
    """(N, D) with mean 0 and deviation 1 in every dimension, so that no loud channel decides; constant ones become 0."""
    centred = features - features.mean(axis=0)
    deviation = centred.std(axis=0)
    return centred / np.where(deviation > 1e-12, deviation, 1.0)


def pca(features: np.ndarray) -> np.ndarray:
    """(N, D) -> (N, 2): the two principal components, the larger first, scaled as the features are."""
    centred = features - features.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    return _signed((left * singular)[:, :2])


def lle(features: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """(N, D) -> (N, 2): locally linear embedding (Roweis and Saul, Science 2000), columns of unit variance.

    Every point is written as a weighted mean of its nearest neighbours; the embedding is the one these weights fit best. Clouds that have
    no neighbours in common cannot be placed relative to each other: each then shrinks to a line or a point.
    """
    count = len(features)
    neighbours = min(neighbours, count - 1)
    distances = np.square(features[:, None] - features[None]).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    weights = np.zeros((count, count))
    for point, nearest in enumerate(np.argsort(distances, axis=1, kind="stable")[:, :neighbours]):
        offsets = features[nearest] - features[point]
        gram = offsets @ offsets.T
        gram += np.eye(neighbours) * (REGULARIZATION * np.trace(gram) or REGULARIZATION)  # more neighbours than dimensions: singular
        solution = np.linalg.solve(gram, np.ones(neighbours))
        weights[point, nearest] = solution / solution.sum()
    rest = np.eye(count) - weights
    _, vectors = np.linalg.eigh(rest.T @ rest)
    return _signed(vectors[:, 1:3] * np.sqrt(count))  # the first, all equal, belongs to eigenvalue 0


def _signed(points: np.ndarray) -> np.ndarray:
    """Axes whose sign is free, turned so that the largest value is positive: the same picture on every machine."""
    largest = points[np.abs(points).argmax(axis=0), np.arange(points.shape[1])]
    return points * np.where(largest < 0, -1.0, 1.0)


def separability(real: np.ndarray, generated: np.ndarray) -> float:
    """How well pairs are told apart: the share of points nearer to the mean of their own kind than to the other's, 0.5 by chance.

    real, generated: (N, D), two pairs at least. Each pair is left out of the means it is measured by: what it shows decides nothing.
    """
    right = 0
    for pair in range(len(real)):
        others = np.arange(len(real)) != pair
        means = real[others].mean(axis=0), generated[others].mean(axis=0)
        for point, own, other in ((real[pair], *means), (generated[pair], *means[::-1])):
            right += np.linalg.norm(point - own) < np.linalg.norm(point - other)
    return right / (2 * len(real))


REDUCTIONS = {"PCA": pca, "LLE": lle}
"""What a row of the figure shows."""
