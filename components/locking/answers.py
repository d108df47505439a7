"""What classifiers answer to locked images, to controls, and to images that an adversary processed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from medmark.components.dataset.arrays import colour_tensor, resize
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.release import with_pixels
from medmark.components.locking.attacks import ATTACKS, Locked, undo
from medmark.components.locking.lesions import Box, Lesions
from medmark.components.locking.logo import Logo, put
from medmark.components.locking.pairs import Pair, box_on_grid
from medmark.components.locking.search import Places, SearchConfig
from medmark.components.surrogate.networks import Classifier
from medmark.components.surrogate.training import predict_probabilities

ATTACKED = 150  # test images that adversaries try their attacks on, at most; arbitrary
CLEAN, LOCKED, RANDOM, CENTRE = "clean", "locked", "random_place", "centre"

# what is shown: one of the names above; or an attack, its strength and LOCKED or CLEAN
Shown = str | tuple[str, float, str]


class Answers:
    """Asks classifiers about test images, some at a time, and keeps which of them are answered right.

    Args:
        models: K classifiers.
        logos: by digest.
        mode: the release's ``image_mode``.
        search: that the release was locked with.
        rng: draws the random places.
        attacked: images that adversaries try their attacks on, at most.
    """

    def __init__(
        self,
        models: Sequence[Classifier],
        logos: Mapping[str, Logo],
        mode: str,
        search: SearchConfig,
        rng: np.random.Generator,
        *,
        attacked: int = ATTACKED,
    ):
        self.most = attacked
        self.models, self.logos, self.mode, self.search, self.rng = models, logos, mode, search, rng
        self.size = models[0].size
        self._right: dict[Shown, list[np.ndarray]] = defaultdict(list)
        self.attacked: list[Pair] = []  # images that are attacked, and the following four of the same
        self.labels: list[int] = []
        self.clean: list[torch.Tensor] = []
        self.locked: list[torch.Tensor] = []
        self.boxes: list[Box] = []

    def add(self, pairs: Sequence[tuple[Pair, Lesions]]) -> None:
        """Asks about images and what adversaries make of them."""
        if not pairs:
            return
        shown: dict[Shown, list[torch.Tensor]] = defaultdict(list)
        for pair, lesions in pairs:
            images = self._images(pair, lesions)
            for name, image in images.items():
                shown[name].append(image)
            if len(self.labels) < self.most:
                for attacked, image in self._attacked(pair).items():
                    shown[attacked].append(image)
                self.attacked.append(pair)
                self.labels.append(pair.clean.label)
                self.clean.append(images[CLEAN])
                self.locked.append(images[LOCKED])
                self.boxes.append(box_on_grid(pair.lock, pair.clean.width, pair.clean.height, self.size))
        labels = np.array([pair.clean.label for pair, _ in pairs])
        for what, given in shown.items():
            self._right[what].append(self.right(torch.stack(given), labels[: len(given)]))

    def right(self, images: torch.Tensor, labels: np.ndarray) -> np.ndarray:
        """Asks all classifiers: (K, N) bool, whether their most probable class is the label."""
        return np.stack([predict_probabilities(model, images).argmax(1) == labels for model in self.models])

    def shown_to(self, model: Classifier) -> dict[str, np.ndarray]:
        """Asks another classifier about the attacked images, clean and locked: (N,) bool each, whether it is right."""
        given = {CLEAN: self.clean, LOCKED: self.locked}
        return {
            name: predict_probabilities(model, torch.stack(images)).argmax(1) == self.labels
            for name, images in given.items()
        }

    def accuracy(self, shown: Shown) -> list[float | None]:
        """For each classifier, the share of images that it has right, of those that it had right when they were clean.

        Args:
            shown: how the images are shown.

        Returns:
            K shares, None for a classifier that had none right.
        """
        found = np.concatenate(self._right[shown], axis=1)
        return [self.share(right, number) for number, right in enumerate(found)]

    def share(self, right: np.ndarray, number: int) -> float | None:
        """Returns the same share for answers to the first N test images.

        Args:
            right: (N,) bool.
            number: of the classifier.
        """
        had = np.concatenate(self._right[CLEAN], axis=1)[number, : len(right)]
        return float(right[had].mean()) if had.any() else None

    def had_right(self) -> list[int]:
        """How many clean images each classifier has right."""
        return [int(n) for n in np.concatenate(self._right[CLEAN], axis=1).sum(1)]

    @property
    def images(self) -> int:
        """How many were asked about."""
        return np.concatenate(self._right[CLEAN], axis=1).shape[1]

    def _images(self, pair: Pair, lesions: Lesions) -> dict[str, torch.Tensor]:
        record, lock, logo = pair.clean, pair.lock, self.logos[pair.lock.logo]
        shape = (record.height, record.width)
        places = Places(shape, lesions.forbidden(shape, self.search.margin), [logo], self.size, self.search)
        _, _, width, height = lock.box
        centre = ((shape[1] - width) // 2, (shape[0] - height) // 2, width, height)
        pixels = decode_png(record.image, mode=self.mode)

        def controlled(box: Box) -> torch.Tensor:
            made = put(pixels, record.bits, record.display, logo, box=box, alpha=lock.alpha)
            return self._shown(colour_tensor(with_pixels(record, made), self.mode))

        return {
            CLEAN: self._shown(colour_tensor(record, self.mode)),
            LOCKED: self._shown(colour_tensor(pair.locked, self.mode)),
            RANDOM: controlled(places.random_box(lock.scale, self.rng)),
            CENTRE: controlled(centre),
        }

    def _attacked(self, pair: Pair) -> dict[Shown, torch.Tensor]:
        logo, made = self.logos[pair.lock.logo], dict[Shown, torch.Tensor]()
        for name, record in ((LOCKED, pair.locked), (CLEAN, pair.clean)):
            known = Locked(_pixels(colour_tensor(record, self.mode)), pair.lock.box, logo, pair.lock.alpha)
            for attack, (process, strengths) in ATTACKS.items():
                if name == CLEAN and process is undo:  # there is nothing to undo
                    continue
                for strength in strengths:
                    made[attack, strength, name] = self._shown(_tensor(process(known, strength)))
        return made

    def _shown(self, image: torch.Tensor) -> torch.Tensor:
        """(1, C, H, W) as classifiers see it: (C, S, S)."""
        return resize(image, self.size)[0]


def _pixels(image: torch.Tensor) -> np.ndarray:
    """(1, C, H, W) in [0, 1] as (H, W) or (H, W, 3) uint8."""
    pixels = (image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    return np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _tensor(pixels: np.ndarray) -> torch.Tensor:
    grey = pixels[..., None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(np.ascontiguousarray(grey)).permute(2, 0, 1)[None].float() / 255
