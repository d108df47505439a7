"""EigenCAM for whole batches: the first principal component of a layer's activations, and its sign.

Source: Muhammad & Yeasin, "Eigen-CAM", IJCNN 2020; pytorch-grad-cam's ``EigenCAM``, of which this is the same map.
That one runs a full NumPy SVD per image and leaves the sign to chance. Here a Lanczos iteration finds just the leading
component, many images at a time, and the sign is fixed so that the map correlates positively with the mean activation.
"""

from __future__ import annotations

import torch
from medmark.components.base.errors import MedmarkError
from scipy.linalg import eigh_tridiagonal

IMAGES_AT_ONCE = 8  # measured: 8 activations of 512x16x16 stay in the processor's cache, 64 do not
CHECKED_AFTER = (6, 12, 18, 24, 30, 36, 48, 64, 96)  # steps; a network's activations need 6, white noise 18 to 64
TOLERANCE = 0.02  # sine of the angle to the exact component: a correlation above 0.9998


def leading_projection(activations: torch.Tensor) -> torch.Tensor:
    """Projection of every position on the first right singular vector of the column-centred activations.

    Args:
        activations: (B, C, H, W).

    Returns:
        (B, H, W) float32; positively correlated with the mean over C (zero for constant activations).

    Raises:
        MedmarkError: an activation is NaN or infinite.
    """
    return torch.cat([_project(part) for part in activations.split(IMAGES_AT_ONCE)])


def _project(activations: torch.Tensor) -> torch.Tensor:
    a = activations.float().flatten(2)  # (B, C, P) with P = H W positions
    mean = a.mean(dim=1)
    if not torch.isfinite(mean).all():
        raise MedmarkError("activations are not finite: the classifier's weights or images are damaged; train it again")
    mean = mean - mean.mean(dim=1, keepdim=True)  # (B, P)
    projection = _leading((a - a.mean(dim=2, keepdim=True)).contiguous(), start=mean)
    correlation = (projection * mean).sum(dim=1, keepdim=True)
    return torch.where(correlation < 0, -projection, projection).unflatten(1, activations.shape[2:])


def _leading(a: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """First right singular vector times its singular value, (B, P), of (B, C, P) matrices.

    Lanczos iteration on the P x P Gram matrix, which is never formed.
    """
    batch, positions = start.shape
    noise = torch.randn(positions, generator=torch.Generator().manual_seed(0)).to(start)
    start = start / start.norm(dim=1, keepdim=True).clamp_min(1e-30) + 0.1 * noise / noise.norm()
    vector = (start / start.norm(dim=1, keepdim=True))[:, None]  # (B, 1, P)
    basis = a.new_empty(batch, CHECKED_AFTER[-1], positions)
    tridiagonal = a.new_empty(batch, 2, CHECKED_AFTER[-1])  # the diagonal and the one beside it
    solution = torch.zeros_like(start)
    left = list(range(batch))  # which of the images the rows of a, basis, ... are
    for step in range(1, CHECKED_AFTER[-1] + 1):
        basis[:, step - 1] = vector[:, 0]
        known = basis[:, :step]
        # a matrix times a column and a row times a matrix: through transposed views both are ten times slower
        rest = (a @ vector.mT).mT @ a
        # against all vectors, not just the last two: in float32 the short recurrence finds the leading one twice
        coefficients = (known @ rest.mT).mT  # (B, 1, step)
        rest = rest - coefficients @ known
        length = rest.norm(dim=2, keepdim=True)
        vector = rest / length.clamp_min(1e-30)
        tridiagonal[:, 0, step - 1] = coefficients[:, 0, -1]
        tridiagonal[:, 1, step - 1] = length[:, 0, 0]
        if step not in CHECKED_AFTER:
            continue
        unsolved = []
        for row, (alpha, beta) in enumerate(tridiagonal[:, :, :step].double().cpu().numpy()):
            values, vectors = eigh_tridiagonal(alpha, beta[:-1], select="i", select_range=(step - 2, step - 1))
            if beta[-1] * abs(vectors[-1, 1]) <= TOLERANCE * (values[1] - values[0]):
                weights = torch.from_numpy(vectors[:, 1] * max(values[1], 0.0) ** 0.5)
                solution[left[row]] = weights.to(known) @ known[row]
            else:
                unsolved.append(row)
        if not unsolved:
            return solution
        if len(unsolved) < len(left):
            left = [left[row] for row in unsolved]
            a, vector, basis, tridiagonal = (x[unsolved] for x in (a, vector, basis, tridiagonal))
    values, vectors = torch.linalg.eigh(a.mT @ a)  # two components of nearly the same size
    solution[left] = vectors[..., -1] * values[:, -1:].clamp_min(0).sqrt()
    return solution
