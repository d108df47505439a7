"""Where to put the logo on each image, so that classifiers fail: differential evolution, the populations of many images in one batch.

The strategy is SciPy's default, best1bin with dither (Storn and Price, 1997); the genes are position, scale, opacity and which logo. A
candidate that would touch a lesion is never taken: all of the first population keep clear of them, and a trial that does not is not
asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from medmark.components.locking.logo import Logo, fitted

GENES = 5  # x, y, scale, alpha, logo
CROSSOVER = 0.7  # SciPy's default
DITHER = (0.5, 1.0)  # likewise
BATCH = 64  # candidates in one forward pass; ours, of six sizes that were tried on one core

Score = Callable[[np.ndarray, torch.Tensor], np.ndarray]


@dataclass(frozen=True)
class SearchConfig:
    """How placements are searched.

    Attributes:
        population: candidates of an image.
        generations: at most.
        scales: shares of the image's longer side that the logo's longer side may take, smallest first.
        alphas: smallest and largest opacity, of 255; 100 is the least of MedLocker's ancestor.
        enough: an image leaves the search when its score is this or less.
        margin: pixels between the logo and a lesion, at least, at the image's own resolution.
    """

    population: int = 24
    generations: int = 16
    scales: tuple[float, ...] = (0.25, 0.3, 0.35, 0.4)
    alphas: tuple[int, int] = (100, 255)
    enough: float = 0.1
    margin: int = 2

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """Reads it from JSON values, which know no tuples."""
        return cls(**values | {name: tuple(values[name]) for name in ("scales", "alphas")})


@dataclass(frozen=True)
class Placement:
    """Where a logo is on an image.

    Attributes:
        box: x, y, width and height, pixels of the image.
        alpha: opacity, 0 to 255.
        scale: of :attr:`SearchConfig.scales`.
        logo: that is there.
    """

    box: tuple[int, int, int, int]
    alpha: int
    scale: float
    logo: Logo


class Places:
    """All places that a logo may take on one image.

    Positions are those of the classifiers' grid, so that the search sees what the image will show.

    Args:
        shape: height and width of the image.
        forbidden: (H, W) bool, where no logo may be; the margin is included.
        logos: one or more of the same shape, to choose from.
        size: side at which classifiers see the image.
        config: scales and opacities.
    """

    def __init__(
        self, shape: tuple[int, int], forbidden: np.ndarray, logos: Sequence[Logo], size: int, config: SearchConfig
    ):
        self.shape, self.size, self.logos, self.config = shape, size, logos, config
        self._sums = np.zeros((shape[0] + 1, shape[1] + 1), np.int64)
        self._sums[1:, 1:] = forbidden.cumsum(0).cumsum(1)

    @cached_property
    def grid(self) -> list[tuple[int, int]]:
        """Height and width of the logo on the classifiers' grid, for each scale."""
        height, width = self.shape
        logo_height, logo_width = self.logos[0].pixels.shape[:2]
        found = []
        for scale in self.config.scales:
            factor = scale * max(height, width) / max(logo_height, logo_width)
            h, w = factor * logo_height / height * self.size, factor * logo_width / width * self.size
            found.append((min(self.size, max(1, round(h))), min(self.size, max(1, round(w)))))
        return found

    @cached_property
    def free(self) -> list[np.ndarray]:
        """For each scale, (rows, columns) bool: may the logo's upper left corner be there?"""
        found = []
        for h, w in self.grid:
            rows, columns = np.arange(self.size - h + 1), np.arange(self.size - w + 1)
            top, bottom = self._pixels(rows, 0), self._pixels(rows + h, 0)
            left, right = self._pixels(columns, 1), self._pixels(columns + w, 1)
            s = self._sums
            inside = s[np.ix_(bottom, right)] - s[np.ix_(top, right)] - s[np.ix_(bottom, left)] + s[np.ix_(top, left)]
            found.append(inside == 0)
        return found

    def _pixels(self, positions: np.ndarray, axis: int) -> np.ndarray:
        return np.round(positions * (self.shape[axis] / self.size)).astype(int)

    def decode(self, genes: np.ndarray) -> tuple[int, int, int, int, Logo]:
        """Turns (5,) genes in [0, 1] into scale number, row, column, opacity and logo."""
        number = min(len(self.grid) - 1, int(genes[2] * len(self.grid)))
        h, w = self.grid[number]
        low, high = self.config.alphas
        row, column = round(genes[1] * (self.size - h)), round(genes[0] * (self.size - w))
        logo = self.logos[min(len(self.logos) - 1, int(genes[4] * len(self.logos)))]
        return number, row, column, round(low + genes[3] * (high - low)), logo

    def random_genes(self, rng: np.random.Generator) -> np.ndarray | None:
        """Draws genes of a free place; None if there is none."""
        numbers = [number for number, free in enumerate(self.free) if free.any()]
        if not numbers:
            return None
        number = int(rng.choice(numbers))
        row, column = rng.choice(np.argwhere(self.free[number]))
        h, w = self.grid[number]
        x, y = column / max(1, self.size - w), row / max(1, self.size - h)
        return np.array([x, y, (number + rng.random()) / len(self.grid), *rng.random(2)])

    def random_box(self, scale: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draws a free place for a logo of one of the scales: the control to a place that was searched."""
        number = self.config.scales.index(scale)
        (row, column), (h, w) = rng.choice(np.argwhere(self.free[number])), self.grid[number]
        return self._box(int(row), int(column), h, w)

    def is_free(self, genes: np.ndarray) -> bool:
        """Whether the logo would touch nothing forbidden."""
        number, row, column, _, _ = self.decode(genes)
        return bool(self.free[number][row, column])

    def placement(self, genes: np.ndarray) -> Placement:
        """Turns genes into pixels of the image."""
        number, row, column, alpha, logo = self.decode(genes)
        return Placement(self._box(row, column, *self.grid[number]), alpha, self.config.scales[number], logo)

    def _box(self, row: int, column: int, height: int, width: int) -> tuple[int, int, int, int]:
        (top, bottom), (left, right) = (
            self._pixels(np.array([row, row + height]), 0),
            self._pixels(np.array([column, column + width]), 1),
        )
        return int(left), int(top), int(right - left), int(bottom - top)

    def draw(self, image: torch.Tensor, genes: np.ndarray) -> None:
        """Puts the logo onto an image as classifiers see it, (C, size, size) float32 in [0, 1], in place."""
        number, row, column, alpha, logo = self.decode(genes)
        h, w = self.grid[number]
        drawn = torch.from_numpy(fitted(logo, h, w, len(image))).permute(2, 0, 1)
        part = image[:, row : row + h, column : column + w]
        part.mul_(1 - drawn[-1] * (alpha / 255)).add_(drawn[:-1], alpha=alpha / 255)


@dataclass(frozen=True)
class Found:
    """What the search found for one image.

    Attributes:
        genes: (population, 5) of the last population, the best first; empty if there is no free place.
        score: of the best.
        evaluations: candidates that were asked about.
    """

    genes: np.ndarray
    score: float
    evaluations: int


def search(
    images: torch.Tensor, places: list[Places], score: Score, config: SearchConfig, seeds: Sequence[int]
) -> list[Found]:
    """Searches the placement with the lowest score for each image.

    Args:
        images: (N, C, S, S) float32 in [0, 1], as classifiers see them.
        places: of each image.
        score: takes positions of images (B,) and candidates (B, C, S, S), and returns a score for each, (B,), low if classifiers fail.
        config: see :class:`SearchConfig`.
        seeds: of each image's populations and trials; the same one gives the same result, whatever images are searched along with it.

    Returns:
        One for each image.
    """
    populations = [
        _Population(place, config, number, seed) for number, (place, seed) in enumerate(zip(places, seeds, strict=True))
    ]
    _evaluate(images, places, [p for p in populations if p.genes is not None], score)
    for _ in range(config.generations):
        waiting = [p for p in populations if p.genes is not None and p.scores.min() > config.enough]
        if not waiting:
            break
        for population in waiting:
            population.propose()
        _evaluate(images, places, waiting, score)
    return [p.found() for p in populations]


class _Population:
    """The candidates of one image, and the trials that may replace them."""

    def __init__(self, place: Places, config: SearchConfig, number: int, seed: int):
        self.place, self.number = place, number
        self.rng = np.random.default_rng(seed)
        drawn = [place.random_genes(self.rng) for _ in range(config.population)]
        self.genes = None if drawn[0] is None else np.stack([d for d in drawn if d is not None])
        self.scores = np.full(config.population, np.inf)
        self.trials = self.genes
        self.asked = np.ones(config.population, bool)
        self.evaluations = 0

    def propose(self) -> None:
        """Makes a trial for each candidate (best1bin), and notes which of them keep clear of lesions."""
        assert self.genes is not None
        count, rng = len(self.genes), self.rng
        first = rng.integers(0, count - 1, count)
        first += first >= np.arange(count)
        second = rng.integers(0, count, count)
        mutant = self.genes[self.scores.argmin()] + rng.uniform(*DITHER) * (self.genes[first] - self.genes[second])
        outside = (mutant < 0) | (mutant > 1)
        mutant[outside] = rng.random(int(outside.sum()))
        cross = rng.random((count, GENES)) < CROSSOVER
        cross[np.arange(count), rng.integers(0, GENES, count)] = True
        self.trials = np.where(cross, mutant, self.genes)
        self.asked = np.array([self.place.is_free(trial) for trial in self.trials])

    def take(self, scores: np.ndarray) -> None:
        """Takes the scores of the trials that were asked about, and keeps what is no worse."""
        assert self.genes is not None and self.trials is not None
        trial_scores = np.full(len(self.genes), np.inf)
        trial_scores[self.asked] = scores
        better = trial_scores <= self.scores
        self.genes = np.where(better[:, None], self.trials, self.genes)
        self.scores = np.where(better, trial_scores, self.scores)
        self.evaluations += len(scores)

    def found(self) -> Found:
        """Returns the candidates in their order."""
        if self.genes is None:
            return Found(np.empty((0, GENES)), float("nan"), 0)
        order = self.scores.argsort(kind="stable")
        return Found(self.genes[order], float(self.scores[order[0]]), self.evaluations)


def _evaluate(images: torch.Tensor, places: list[Places], populations: list[_Population], score: Score) -> None:
    """Asks about the trials of many images together, some hundred in a forward pass."""
    rows = [(p.number, genes) for p in populations for genes in _asked(p)]
    scores = np.empty(len(rows))
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        index = np.array([number for number, _ in part])
        batch = images[torch.from_numpy(index)]  # a copy
        for candidate, (number, genes) in zip(batch, part, strict=True):
            places[number].draw(candidate, genes)
        scores[start : start + len(part)] = score(index, batch)
    at = 0
    for population in populations:
        count = int(population.asked.sum())
        population.take(scores[at : at + count])
        at += count


def _asked(population: _Population) -> np.ndarray:
    assert population.trials is not None
    return population.trials[population.asked]
