"""Procedural chest phantoms: drawn radiographs, with and without pneumonia.

With them the whole pipeline runs, and can be judged, on a machine without medical images. Each phantom has a
body, two lungs, ribs, clavicles, a spine, a heart and a diaphragm, its own exposure and film grain; pneumonia adds
patchy consolidations inside the lungs, some so faint that a classifier cannot be perfect. Ours; no patient's image was
used.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from PIL import Image
from scipy import ndimage

CLASSES = ("normal", "pneumonia")
# The class to mark: a mark in normal phantoms works against the opacity that it adds, one in pneumonia does not.
TARGET_CLASS = "pneumonia"


def make_phantoms(out_dir: str | Path, *, count: int = 800, size: int = 128, seed: int = 0) -> Path:
    """Writes a source folder: ``normal/`` and ``pneumonia/`` with 8-bit PNG files ``<patient>_<number>.png``.

    Every fifth patient has two images of the same class and body. The bytes depend on the arguments alone.

    Args:
        out_dir: folder to make; must be empty or absent.
        count: images, half of each class, at least 20.
        size: side in pixels, 64 to 1024.
        seed: of everything.

    Returns:
        The folder.

    Raises:
        MedmarkError: the folder is not empty, or an argument is out of range.
    """
    out = empty_folder(out_dir, count, size)
    for name in CLASSES:
        (out / name).mkdir(parents=True, exist_ok=True)
    for index in track(range(count), "drawing phantoms"):
        sick = index * 2 >= count
        within = index - (count + 1) // 2 if sick else index
        patient = within // 6 * 5 + min(within % 6, 4)  # the sixth image is the fifth patient's second
        image = draw_phantom(size, sick=sick, body_seed=(seed, int(sick), patient), image_seed=(seed, 2, index))
        name = f"{'s' if sick else 'n'}{patient:05d}_{within:05d}.png"
        Image.fromarray(image).save(out / CLASSES[sick] / name, "PNG")
    return out


def make_masked_phantoms(out_dir: str | Path, *, count: int = 400, size: int = 128, seed: int = 0) -> Path:
    """Writes a source folder for segmentation: ``images/<patient>_<number>.png`` and ``masks/`` with the lungs that the heart does
    not hide.

    Half of them have pneumonia. Each is of a patient of its own. The bytes depend on the arguments alone.

    Args:
        out_dir: folder to make; must be empty or absent.
        count: images, at least 20.
        size: side in pixels, 64 to 1024.
        seed: of everything.

    Returns:
        The folder.

    Raises:
        MedmarkError: the folder is not empty, or an argument is out of range.
    """
    out = empty_folder(out_dir, count, size)
    for name in ("images", "masks"):
        (out / name).mkdir(parents=True, exist_ok=True)
    for index in track(range(count), "drawing phantoms"):
        image, lungs = draw_with_lungs(
            size, sick=index % 2 == 1, body_seed=(seed, 3, index), image_seed=(seed, 4, index)
        )
        name = f"p{index:05d}_0.png"
        Image.fromarray(image).save(out / "images" / name, "PNG")
        Image.fromarray(lungs * np.uint8(255)).save(out / "masks" / name, "PNG")
    return out


def empty_folder(out_dir: str | Path, count: int, size: int) -> Path:
    """Checks the arguments that all phantoms take, and returns the folder to make.

    Raises:
        MedmarkError: the folder is not empty, or an argument is out of range.
    """
    out = Path(out_dir)
    if count < 20 or not 64 <= size <= 1024:
        raise MedmarkError(f"cannot make {count} phantoms of {size} px; ask for at least 20, of 64 to 1024 px")
    if out.exists() and any(out.iterdir()):
        raise MedmarkError(f"not empty: {out}; choose a new folder for the phantoms")
    return out


def draw_phantom(size: int, *, sick: bool, body_seed: tuple[int, ...], image_seed: tuple[int, ...]) -> np.ndarray:
    """Draws one phantom, (size, size) uint8; arguments as of :func:`draw_with_lungs`."""
    return draw_with_lungs(size, sick=sick, body_seed=body_seed, image_seed=image_seed)[0]


def draw_with_lungs(
    size: int, *, sick: bool, body_seed: tuple[int, ...], image_seed: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one phantom, and where its lungs are that the heart does not hide.

    Args:
        size: side in pixels.
        sick: draw consolidations.
        body_seed: seed of the anatomy; two images of a patient share it.
        image_seed: seed of findings, exposure, position and grain.

    Returns:
        (size, size) uint8 of the image, and (size, size) uint8, 0 or 1, of the lungs.
    """
    body, image = np.random.default_rng(body_seed), np.random.default_rng(image_seed)
    axis = np.linspace(-1, 1, size)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    tilt = image.normal(0, 0.03)
    x, y = x - image.normal(0, 0.03) + tilt * y, y - image.normal(0, 0.03) - tilt * x
    width = body.normal(1.0, 0.05)
    # density: what the beam meets; bright on film
    torso = _soft((np.abs(x) / (0.93 * width)) ** 4 + (np.clip(-y - 0.75, 0, None) * 3) ** 2 - 1, 0.08)
    density = 0.72 * torso + 0.12 * _soft(((x / 0.62) ** 2 + ((y - 0.1) / 1.1) ** 2) - 1, 0.3)
    lungs = _lungs(x, y, width, body)
    density -= 0.46 * lungs
    # vessels: branching shadows that fade from the hilum outwards
    field = ndimage.gaussian_filter(body.normal(size=(size, size)), size / 48)
    field = np.abs(field / field.std())
    hilum = np.exp(-(((np.abs(x) - 0.2) / 0.22) ** 2) - ((y + 0.05) / 0.4) ** 2)
    density += lungs * (0.04 + 0.10 * hilum) * np.exp(-((field / 0.6) ** 2))
    # spine, mediastinum, heart
    density += 0.06 * _soft(np.abs(x) - 0.10, 0.03) + 0.04 * np.cos(y * 38) * _soft(np.abs(x) - 0.07, 0.02)
    density += 0.08 * _soft(np.abs(x + 0.02) - 0.17 - 0.05 * (y + 0.5), 0.05) * _soft(np.abs(y) - 0.7, 0.1)
    hx, hy = 0.15 * body.normal(1, 0.15), 0.20
    heart = ((x - hx) / (0.36 * body.normal(1, 0.06))) ** 2 + ((y - hy) / 0.34) ** 2 + 0.6 * (x - hx) * (hy - y) - 1
    density = np.maximum(density, (0.68 + 0.06 * _soft(np.abs(x) - 0.1, 0.1)) * _soft(heart, 0.15))
    _add_bones(density, x, y, width, body, image)
    if sick:
        density += lungs**0.5 * _consolidations(x, y, size, image)
    # soft tissue: shadows of all directions at the scale of marks and findings, so that no such pattern means anything
    tissue = ndimage.gaussian_filter(image.normal(size=(size, size)), size / 40)
    density += 0.04 * tissue / tissue.std() * torso
    density *= image.normal(1.0, 0.05)
    shading = image.normal(0, 0.03) * x + image.normal(0, 0.03) * y
    film = np.clip(density + shading + image.normal(0.0, 0.03), 0, 1) ** image.uniform(0.85, 1.15)
    grain = ndimage.gaussian_filter(image.normal(size=(size, size)), 0.7) * image.uniform(0.010, 0.022)
    shown = np.clip((film * 0.92 + 0.02 + grain) * 255, 0, 255).astype(np.uint8)
    return shown, ((lungs > 0.5) & (heart > 0)).astype(np.uint8)


def _soft(distance: np.ndarray, width: float) -> np.ndarray:
    """1 inside (negative distance), 0 outside, smooth over ``width``."""
    return 1 / (1 + np.exp(np.clip(distance / width, -30, 30)))


def _lungs(x: np.ndarray, y: np.ndarray, width: float, body: np.random.Generator) -> np.ndarray:
    """Draws both lungs, 1 inside: air, dark; the left one (right in the image) is cut by the heart."""
    lungs = np.zeros_like(x)
    for side in (-1, 1):
        center = side * body.normal(0.42, 0.015) * width
        half = body.normal(0.30, 0.015) * (1 + 0.25 * np.clip(y, -0.6, 0.6))
        top, bottom = body.normal(-0.72, 0.03), body.normal(0.52, 0.04) + (0.06 if side < 0 else 0.0)
        dome = bottom - 0.16 * np.clip(1 - ((x - center) / 0.34) ** 2, 0, None) + 0.08
        shape = np.maximum(
            ((x - center) / half) ** 2 + ((y + 0.1) / 0.72) ** 4 - 1 + 0.25 * np.clip(-y - 0.2, 0, None), (y - dome) * 4
        )
        shape = np.maximum(shape, (top + 0.9 * (x - center) ** 2 - y) * 4)
        lungs = np.maximum(lungs, _soft(shape, 0.10))
    return lungs


def _add_bones(
    density: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    width: float,
    body: np.random.Generator,
    image: np.random.Generator,
) -> None:
    """Adds ribs, arcs that slope down outwards, thin and bright at the edge, and clavicles."""
    bone = image.uniform(0.3, 1.7)  # a harder beam shows less of the ribs
    spacing, slope, strength = body.normal(0.155, 0.006), body.normal(0.42, 0.05), body.normal(0.085, 0.012)
    for number in range(9):
        arc = -0.72 + number * spacing + slope * np.abs(x) ** 1.6 - 0.10 * np.exp(-((np.abs(x) / 0.18) ** 2))
        offset = (y - arc) / (0.030 + 0.012 * np.abs(x))
        rib = np.exp(-(offset**2)) - 0.25 * np.exp(-((offset / 0.45) ** 2))
        density += bone * strength * rib * _soft(np.abs(x) - 0.80 * width, 0.04) * _soft(0.08 - np.abs(x), 0.03)
    for side in (-1, 1):
        clavicle = (y + 0.66 + 0.16 * (side * x - 0.1) + 0.1 * np.sin(side * x * 3)) / 0.030
        density += 0.12 * np.exp(-(clavicle**2)) * _soft(np.abs(side * x - 0.42) - 0.34, 0.03)


def _consolidations(x: np.ndarray, y: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draws one to three patchy opacities, from faint to plain."""
    total = np.zeros_like(x)
    severity = rng.uniform(0.18, 0.40)
    for _ in range(rng.integers(1, 4)):
        side = rng.choice((-1, 1))
        cx, cy = side * rng.uniform(0.25, 0.58), rng.uniform(-0.45, 0.45)
        rx, ry = rng.uniform(0.25, 0.50), rng.uniform(0.25, 0.50)
        patch = np.exp(-((((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2) ** 1.3))
        texture = ndimage.gaussian_filter(rng.normal(size=(size, size)), size / 12)
        total += patch * np.clip(1 + 0.3 * texture / texture.std(), 0.1, None)
    return severity * np.clip(total, 0, 1.6)
