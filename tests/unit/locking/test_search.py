"""The search, beside SciPy's."""

import numpy as np
import torch
from medmark.components.locking.logo import text_logos
from medmark.components.locking.search import Places, SearchConfig, search
from scipy.optimize import differential_evolution

LOGOS = text_logos("A B")
SIZE = 48


def places(count, config, forbidden=None):
    none = np.zeros((96, 120), bool) if forbidden is None else forbidden
    return [Places(none.shape, none, LOGOS, SIZE, config) for _ in range(count)]


def distance(place, targets):
    """A score with one best place for each image: how far the placement is from it."""

    def score(genes, target):
        _, row, column, alpha, _ = place.decode(genes)
        return float(np.hypot(row - target[0], column - target[1]) / SIZE + abs(alpha - target[2]) / 255)

    return score


def test_it_finds_what_scipys_finds():
    config = SearchConfig(population=20, generations=40, scales=(0.2, 0.3), enough=0.0)
    rng = np.random.default_rng(0)
    count = 12
    targets = np.column_stack([rng.uniform(0, 30, (count, 2)), rng.uniform(100, 255, count)])
    known = places(count, config)
    score = distance(known[0], targets)
    drawn: list[tuple[int, np.ndarray]] = []
    for number, place in enumerate(known):  # the batch holds pictures; the score needs the genes that drew them
        original = place.draw
        place.draw = lambda image, genes, number=number, original=original: (
            drawn.append((number, genes.copy())),
            original(image, genes),
        )

    def of_batch(index, batch):
        part = drawn[-len(batch) :]
        assert [number for number, _ in part] == index.tolist()
        return np.array([score(genes, targets[number]) for number, genes in part])

    found = search(torch.zeros(count, 3, SIZE, SIZE), known, of_batch, config, range(count))
    theirs = [
        differential_evolution(
            lambda genes, target=target: score(genes, target), [(0, 1)] * 5, popsize=4, maxiter=40, polish=False,
            updating="deferred", rng=number, tol=0, atol=0,
        ).fun
        for number, target in enumerate(targets)
    ]  # fmt: skip
    ours = [f.score for f in found]
    assert max(f.evaluations for f in found) <= 20 * 41
    assert np.median(ours) <= np.median(theirs) + 0.01 and max(ours) <= max(theirs) + 0.05


def test_no_candidate_touches_what_is_forbidden():
    config = SearchConfig(population=12, generations=6, scales=(0.2, 0.3, 0.4), enough=0.0)
    forbidden = np.zeros((96, 120), bool)
    forbidden[20:60, 30:80] = True
    (place,) = places(1, config, forbidden)
    asked = []
    original = place.draw
    place.draw = lambda image, genes: (asked.append(place.placement(genes)), original(image, genes))
    rng = np.random.default_rng(1)
    found = search(torch.zeros(1, 3, SIZE, SIZE), [place], lambda i, batch: rng.random(len(batch)), config, [3])
    assert len(asked) == found[0].evaluations > 12
    for placement in asked:
        x, y, width, height = placement.box
        assert 0 <= x and x + width <= 120 and 0 <= y and y + height <= 96
        assert not forbidden[y : y + height, x : x + width].any()
    full = np.ones((96, 120), bool)
    none = search(torch.zeros(1, 3, SIZE, SIZE), places(1, config, full), lambda i, b: np.zeros(len(b)), config, [3])
    assert len(none[0].genes) == 0 and none[0].evaluations == 0


def test_an_image_does_not_depend_on_those_beside_it():
    config = SearchConfig(population=8, generations=5, scales=(0.3,), enough=0.05)
    images = torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))

    def score(index, batch):
        return batch[:, 0].mean(dim=(1, 2)).numpy() + 0.0

    together = search(images, places(5, config), score, config, range(5))
    alone = search(images[3:4], places(1, config), score, config, [3])
    np.testing.assert_array_equal(together[3].genes, alone[0].genes)
    assert together[3].score == alone[0].score
