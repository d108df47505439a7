import numpy as np
import pytest
import torch
from medmark.components.segmentation.detector import fit_detector, uncertainty
from medmark.components.segmentation.harm import compare_segmenters, image_metrics
from scipy import ndimage, stats
from sklearn.metrics import f1_score, jaccard_score, roc_auc_score


@pytest.fixture
def maps(rng):
    """Six discs as masks, and maps that find them roughly."""
    y, x = np.mgrid[:32, :32]
    masks = np.stack([(y - 16) ** 2 + (x - 10 - i) ** 2 < (5 + i) ** 2 for i in range(6)])
    noisy = ndimage.gaussian_filter(masks + rng.normal(0, 0.6, masks.shape), (0, 1.5, 1.5))
    return torch.from_numpy(np.clip(noisy, 0, 1)).float(), torch.from_numpy(masks[:, None]).float()


def test_metrics_are_those_of_scikit_learn_and_scipy(maps):
    found, masks = maps
    measured = image_metrics(found, masks)
    for i in range(len(found)):
        true, said = masks[i, 0].numpy().astype(int), (found[i].numpy() >= 0.5).astype(int)
        assert measured["dice"][i] == pytest.approx(f1_score(true.ravel(), said.ravel()))
        assert measured["iou"][i] == pytest.approx(jaccard_score(true.ravel(), said.ravel()))
        assert measured["auc"][i] == pytest.approx(roc_auc_score(true.ravel(), found[i].numpy().ravel()))
        sizes = true.sum(), said.sum()
        assert measured["volumetric_similarity"][i] == pytest.approx(1 - abs(sizes[0] - sizes[1]) / sum(sizes))
        edges = [m & ~ndimage.binary_erosion(m) for m in (true > 0, said > 0)]
        distances = [ndimage.distance_transform_edt(~b)[a] for a, b in (edges, edges[::-1])]
        assert measured["hd95"][i] == pytest.approx(max(np.percentile(d, 95) for d in distances), abs=1e-4)


def test_empty_masks_have_no_dice_and_a_missed_one_is_far(maps):
    found, masks = maps
    masks[0], found[1] = 0, 0
    measured = image_metrics(found, masks)
    assert np.isnan(measured["dice"][0]) and np.isnan(measured["auc"][0])
    assert measured["dice"][1] == 0 and measured["hd95"][1] == pytest.approx(np.hypot(32, 32))


def test_changes_are_paired(maps, rng):
    found, masks = maps
    worse = (found * 0.8).clamp(0, 1)
    said = compare_segmenters(worse, worse, found, masks)
    changes = image_metrics(worse, masks)["dice"] - image_metrics(found, masks)["dice"]
    dice = said["metrics"]["dice"]
    assert dice["change"] == pytest.approx(changes.mean())
    assert dice["p_value"] == pytest.approx(stats.wilcoxon(changes).pvalue)
    assert dice["change_ci95"][0] <= dice["change"] <= dice["change_ci95"][1]
    assert said["equal_pixels"] == 1.0
    same = compare_segmenters(found, found, found, masks)["metrics"]["dice"]
    assert (same["change"], same["p_value"], same["change_ci95"]) == (0.0, 1.0, [0.0, 0.0])


def test_the_detector_tells_doubt_from_certainty(rng):
    clean = torch.from_numpy(rng.choice([0.01, 0.99], (40, 16, 16))).float()
    doubtful = torch.from_numpy(rng.choice([0.05, 0.95], (40, 16, 16))).float()
    detector = fit_detector(clean[:20], doubtful[:20])
    assert detector.flags(doubtful[20:]).all() and not detector.flags(clean[20:]).any()
    assert uncertainty(clean) == pytest.approx(np.full(40, 0.01), abs=1e-6)
    detector = fit_detector(clean, clean)  # nothing to tell apart, and no spread
    assert np.isfinite([detector.weight, detector.offset, detector.deviation]).all()
