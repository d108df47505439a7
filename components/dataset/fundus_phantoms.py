"""Procedural fundus phantoms: drawn photographs of the retina in colour, healthy, with haemorrhages or with hard exudates, and masks of
these lesions.

Each phantom has a round field, an optic disc, a macula, two arcades of vessels with branches, its own pigment, exposure and grain;
haemorrhages are dark red and exudates yellow. Ours; no patient's photograph was used.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from medmark.components.base.progress import track
from medmark.components.dataset.phantoms import empty_folder
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

CLASSES = ("healthy", "haemorrhages", "exudates")
LESIONS = (5, 12)  # of an image, at least and at most; ours, so that small networks can learn to see them


def make_fundus_phantoms(out_dir: str | Path, *, count: int = 300, size: int = 128, seed: int = 0) -> Path:
    """Writes a source folder: ``images/<class>/<patient>_0.png`` for each of :data:`CLASSES`, and the masks of the lesions below ``masks/``
    likewise.

    Each phantom is of a patient of its own. The bytes depend on the arguments alone.

    Args:
        out_dir: folder to make; must be empty or absent.
        count: images, a third of each class, at least 20.
        size: side in pixels, 64 to 1024.
        seed: of everything.

    Returns:
        The folder.

    Raises:
        MedmarkError: the folder is not empty, or an argument is out of range.
    """
    out = empty_folder(out_dir, count, size)
    for kind in ("images", "masks"):
        for name in CLASSES:
            (out / kind / name).mkdir(parents=True, exist_ok=True)
    for index in track(range(count), "drawing phantoms"):
        finding = CLASSES[index % 3]
        image, lesions = draw_fundus(size, finding, seed=(seed, 5, index))
        name = f"f{index:05d}_0.png"
        Image.fromarray(image).save(out / "images" / finding / name, "PNG")
        Image.fromarray(lesions * np.uint8(255)).save(out / "masks" / finding / name, "PNG")
    return out


def draw_fundus(size: int, finding: str, *, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Draws one phantom, and where its lesions are.

    Args:
        size: side in pixels.
        finding: one of :data:`CLASSES`.
        seed: of everything.

    Returns:
        (size, size, 3) uint8 of the image, and (size, size) uint8, 0 or 1, of the lesions.
    """
    rng = np.random.default_rng(seed)
    axis = np.linspace(-1, 1, size)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    side = rng.choice((-1.0, 1.0))  # left or right eye
    disc = np.array([side * rng.normal(0.45, 0.04), rng.normal(0.0, 0.05)])
    macula = np.array([-side * rng.normal(0.08, 0.04), rng.normal(0.06, 0.04)])
    tone = np.array([0.72, 0.34, 0.14]) * rng.normal(1, [0.06, 0.10, 0.14])
    image = np.broadcast_to(tone, (size, size, 3)).copy()
    image *= (1 - 0.30 * (x**2 + y**2))[..., None]
    choroid = ndimage.gaussian_filter(rng.normal(size=(size, size)), size / 24)
    image *= (1 + 0.10 * choroid / choroid.std() * rng.uniform(0.4, 1))[..., None]
    image *= (1 - 0.38 * np.exp(-((x - macula[0]) ** 2 + (y - macula[1]) ** 2) / 0.030))[..., None]
    vessels = _vessels(x, y, disc, side, rng)
    image *= 1 - vessels[..., None] * np.array([0.28, 0.50, 0.45])
    bright = np.exp(-((np.hypot(x - disc[0], (y - disc[1]) * 0.9) / rng.normal(0.15, 0.01)) ** 6))
    image += bright[..., None] * np.array([0.22, 0.38, 0.26]) * (1 - 0.6 * vessels[..., None])
    lesions = np.zeros((size, size), bool)
    if finding != CLASSES[0]:
        lesions = _add_lesions(image, x, y, disc, finding == CLASSES[2], rng)
    image = image * rng.normal(1.0, 0.07) + rng.normal(0, 0.015)
    image += ndimage.gaussian_filter(rng.normal(size=(size, size, 3)), (0.6, 0.6, 0)) * rng.uniform(0.008, 0.02)
    field = np.hypot(x, y) < 0.96
    shown = np.clip(image, 0.02, 1) * field[..., None]
    return (shown * 255).round().astype(np.uint8), (lesions & field).astype(np.uint8)


def _vessels(x: np.ndarray, y: np.ndarray, disc: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    """Draws two arcades that bend around the macula, and branches, 1 inside."""
    points = []
    for upward in (-1, 1):
        for branch in range(4):
            bend, reach = rng.normal(0.75, 0.08) * (1 - 0.22 * branch), rng.uniform(0.9, 1.5)
            t = np.linspace(0, 1, 60)
            px = disc[0] - side * reach * t * (1 if branch % 2 == 0 else -0.45)
            py = disc[1] + upward * bend * np.sin(np.minimum(t * 1.9, np.pi / 2)) + 0.05 * np.sin(5 * t + branch)
            points.append(np.stack([px, py, (0.022 - 0.003 * branch) * (1 - 0.55 * t)], axis=1))
    known = np.concatenate(points)
    distance, nearest = cKDTree(known[:, :2]).query(np.stack([x, y], axis=-1))
    return np.exp(-(distance**2) / (2 * known[nearest, 2] ** 2))


def _add_lesions(
    image: np.ndarray, x: np.ndarray, y: np.ndarray, disc: np.ndarray, exudates: bool, rng: np.random.Generator
) -> np.ndarray:
    """Adds lesions away from the optic disc, in clusters, and returns where they are."""
    lesions = np.zeros(x.shape, bool)
    cluster = rng.uniform(-0.45, 0.45, 2)
    for _ in range(rng.integers(LESIONS[0], LESIONS[1] + 1)):
        centre = cluster + rng.normal(0, 0.2, 2)
        if np.hypot(*(centre - disc)) < 0.3:
            centre = -centre
        radius = rng.uniform(0.04, 0.08) if exudates else rng.uniform(0.05, 0.11)
        stretch = rng.uniform(0.7, 1.4)
        shape = np.exp(-(((x - centre[0]) * stretch) ** 2 + ((y - centre[1]) / stretch) ** 2) / radius**2)
        if exudates:
            image += shape[..., None] * np.array([0.26, 0.34, 0.12]) * rng.uniform(0.6, 1.1)
        else:
            image *= 1 - shape[..., None] * np.array([0.45, 0.75, 0.70]) * rng.uniform(0.6, 1.0)
        lesions |= shape > 0.25
    return lesions
