"""Score how suspicious training images look, by two published methods.

The adversarial-robustness-toolbox (1.20) has both, but its spectral score projects features that are not centred, so
that it depends on where the class is (the paper's does not), and its clustering takes no seed and gives no score.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import resize
from medmark.components.surrogate.networks import Classifier
from torch import nn

DIMENSIONS = 10  # Chen et al. 2018
FEWEST = 4  # images of a class; fewer have no clusters to speak of. Arbitrary


def head(model: Classifier) -> nn.Linear:
    """The last linear layer."""
    return [module for module in model.network.modules() if isinstance(module, nn.Linear)][-1]


@torch.no_grad()
def penultimate(model: Classifier, images: torch.Tensor, batch_size: int = 64) -> torch.Tensor:
    """Returns (N, C) float32: what the last linear layer is given for (N, 1, H, W) images in [0, 1].

    Raises:
        MedmarkError: there is no image.
    """
    if not len(images):
        raise MedmarkError("no image to read a model's features from; give some")
    seen: list[torch.Tensor] = []
    hook = head(model).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].flatten(1)))
    try:
        for batch in images.split(batch_size):
            model.eval()(resize(batch, model.size))
    finally:
        hook.remove()
    return torch.cat(seen).float()


def spectral_signatures(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """Projects the centred features on their first singular vector, squared (Tran, Li, Madry, NeurIPS 2018).

    Args:
        features: (N, C) of one class.
        seed: not used; nothing is drawn.

    Returns:
        (N,) scores; high is suspicious.
    """
    centred = features - features.mean(axis=0)
    return (centred @ np.linalg.svd(centred, full_matrices=False)[2][0]) ** 2


def activation_clusters(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """Scores the nearness to the smaller of two clusters (Chen et al., "Activation Clustering", 2018).

    Ten principal components, two means; the smaller cluster is the suspicious one. The paper removes that cluster; to
    remove a given share, images are ranked by how much nearer they are to its centre than to the other's (ours).

    Args:
        features: (N, C) of one class, N >= 4.
        seed: of the clustering.

    Returns:
        (N,) scores; high is suspicious, above 0 is in the smaller cluster.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    reduced = PCA(min(DIMENSIONS, *features.shape), random_state=seed).fit_transform(features)
    found = KMeans(2, n_init=10, random_state=seed).fit(reduced)
    small = int(np.bincount(found.labels_, minlength=2).argmin())
    distances = found.transform(reduced)
    return distances[:, 1 - small] - distances[:, small]


METHODS: dict[str, Callable[..., np.ndarray]] = {
    "spectral signatures": spectral_signatures,
    "activation clustering": activation_clusters,
}


def suspicion(model: Classifier, images: torch.Tensor, labels: torch.Tensor, method: str, seed: int = 0) -> np.ndarray:
    """Scores every training image among those of its class.

    Args:
        model: trained on these images.
        images: (N, 1, S, S) float32 in [0, 1].
        labels: (N,) int64.
        method: name in :data:`METHODS`.
        seed: of the method.

    Returns:
        (N,) scores; high is suspicious; scores of different classes do not compare.

    Raises:
        MedmarkError: unknown method, or a class of fewer than four images.
    """
    if method not in METHODS:
        raise MedmarkError(f"unknown method: {method!r}; use one of {', '.join(METHODS)}")
    features = penultimate(model, images).double().numpy()
    scores = np.empty(len(features))
    for label in labels.unique().tolist():
        of_class = (labels == label).numpy()
        if of_class.sum() < FEWEST:
            raise MedmarkError(f"class {label} has {of_class.sum()} images; {method} needs {FEWEST} or more")
        scores[of_class] = METHODS[method](features[of_class], seed)
    return scores
