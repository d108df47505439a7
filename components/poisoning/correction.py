"""Publishing the correction of an image so that it looks the same whether the image is marked or not.

Whoever has both versions sees their difference. For an image without a mark that is the correction. A marked image therefore
keeps, wherever it was not corrected, the bytes that are public, and where it was, its mark on top of the correction: the
difference is the correction again. This needs the correction to be local. One that touches most of an image (another contrast,
another crop) would show the mark as what does not follow it, so the image is withdrawn, marked or not.
"""

from __future__ import annotations

import numpy as np
from medmark.components.generator.hiding import constant_areas

MOST_CORRECTED = 0.25  # share of an image's pixels; ours: covering a burnt-in name takes a few hundredths


def corrected(
    published: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    first: np.ndarray | None = None,
    first_published: np.ndarray | None = None,
) -> np.ndarray | None:
    """The next published version of an image.

    Args:
        published: (H, W) stored values that are public, with the mark if there is one.
        before: (H, W) the same image without it; equal to ``published`` if it has none.
        after: (H, W) the corrected image without it.
        first, first_published: (H, W) as it was marked, without and with the mark, if it was corrected before: a value that comes
            back looks as it did.

    Returns:
        (H, W); None if the correction is not local. That depends on ``before`` and ``after`` alone.
    """
    if after.shape != before.shape or after.dtype != before.dtype:
        return None
    touched = after != before
    if touched.mean() > MOST_CORRECTED:
        return None
    first = before if first is None else first
    first_published = published if first_published is None else first_published
    mark = first_published.astype(np.int64) - first
    mark[constant_areas(after)] = 0  # a name is covered with one value, marked or not
    mark[after == first] = (first_published.astype(np.int64) - first)[after == first]
    wanted = (after + mark)[touched]
    # no value that the image does not use
    values = np.union1d(np.unique(after), np.unique(first_published)).astype(np.int64)
    above = np.clip(np.searchsorted(values, wanted), 1, max(1, len(values) - 1))
    low, high = values[above - 1], values[np.minimum(above, len(values) - 1)]
    made = published.copy()
    made[touched] = np.where(wanted - low < high - wanted, low, high).astype(published.dtype)
    return made
