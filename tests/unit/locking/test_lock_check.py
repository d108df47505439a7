"""The check of a locked release: what it measures, and that it finds what is wrong."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.release import Release, with_pixels
from medmark.components.dataset.release_writer import ReleaseWriter
from medmark.components.locking.attacks import ATTACKS, Locked, inpaint_telea, undo
from medmark.components.locking.lesion_segmenter import (
    compare_dice,
    load_lesion_segmenter,
    train_lesion_segmenter,
)
from medmark.components.locking.lesions import Lesions, LesionSegmenter, boxes_of, find_lesions
from medmark.components.locking.lock import lock_release
from medmark.components.locking.locks import read_locks
from medmark.components.locking.logo import put, text_logos
from medmark.components.locking.pairs import read_pairs
from medmark.components.locking.removal import Seen, train_remover
from medmark.components.locking.safety import Safety
from medmark.components.locking.seal import release_key
from medmark.components.locking.verdict import LockThresholds, lock_proofs
from medmark.components.segmentation.training import SegmenterConfig
from medmark.components.surrogate.models import load_models

BOX, ALPHA = (30, 10, 40, 30), 128


@pytest.fixture(scope="module")
def pairs(locked):
    return list(read_pairs(locked.clean, Release(locked.release), read_locks(locked.evidence)))


def lesions_in(pair) -> Lesions:
    return Lesions(boxes_of(decode_png(pair.clean.mask) > 0), "mask")


def found(locked, pairs) -> dict:
    safety = Safety("RGB", release_key(locked.options.mark_key, locked.clean.digest))
    for pair in pairs:
        safety.add(pair, lesions_in(pair))
    return safety.found(np.random.default_rng(0))


def test_a_safe_release_is_found_safe_and_each_fault_is_found(locked, pairs):
    some = pairs[:8]
    safe = found(locked, some)
    assert (safe["lesions"]["covered_pixels"], safe["elsewhere"]["changed_pixels"]) == (0, 0)
    assert (safe["unlocked"]["exact"], safe["unlocked"]["images"]) == (8, 8)
    ill = next(pair for pair in pairs if lesions_in(pair).boxes)
    (x, y, width, height), *_ = lesions_in(ill).boxes
    covering = replace(ill, lock=replace(ill.lock, x=x, y=y, width=width, height=height))
    assert found(locked, [*some, covering])["lesions"]["covered_pixels"] > 0
    pixels = decode_png(some[0].locked.image, mode="RGB")
    pixels[0 if some[0].lock.y else -1, 0 if some[0].lock.x else -1] ^= 1  # a corner that the logo does not reach
    touched = replace(some[0], locked=with_pixels(some[0].locked, pixels))
    worse = found(locked, [touched, *some[1:]])
    assert worse["elsewhere"]["changed_pixels"] == 1 and worse["unlocked"]["exact"] == 7


def test_the_verdict_follows_from_what_was_measured():
    def verdict(*, covered=0, white=0.05, black=0.4, accepted=0):
        measured = {
            "lesions": {"covered_pixels": covered},
            "elsewhere": {"changed_pixels": 0},
            "unlocked": {"images": 3, "exact": 3, "tampered": 9, "accepted": accepted},
            "accuracy": {"white_box": {"locked": white}, "black_box": {"locked": black}},
        }
        return lock_proofs(measured, LockThresholds())

    assert verdict().verdict == "locked" and verdict().reasons == []
    assert verdict(white=0.09).verdict == verdict(black=None).verdict == "weak"
    assert verdict(covered=1).verdict == verdict(accepted=1).verdict == "unsafe"
    assert verdict(black=0.5).reasons == ["black-box accuracy: 50.0 % (<= 45.83 % is needed)"]


@pytest.mark.parametrize("channels", [1, 3])
def test_attacks_on_images(channels):
    rng, (dark, _) = np.random.default_rng(0), text_logos("NO")
    shape = (80, 100) if channels == 1 else (80, 100, 3)
    clean = np.clip(rng.normal(120, 4, shape), 0, 255).astype(np.uint8)
    locked = put(clean, 8, None, dark, box=BOX, alpha=ALPHA)
    known = Locked(locked, BOX, dark, ALPHA)
    x, y, width, height = BOX
    outside = np.ones(shape, bool)
    outside[y : y + height, x : x + width] = False

    def gap(image):
        return float(np.abs(image.astype(int) - clean)[~outside].mean())

    for attack, (process, strengths) in ATTACKS.items():
        for strength in strengths:
            made = process(known, strength)
            assert made.dtype == np.uint8 and made.ndim == clean.ndim, attack
            if not attack.startswith("cropping"):
                assert made.shape == shape, attack
    filled, undone = inpaint_telea(known, 3), undo(known, 1)
    assert (filled[outside] == locked[outside]).all() and (undone[outside] == locked[outside]).all()
    assert gap(locked) > 20 and gap(filled) < 8 and gap(undone) < 1.5  # half of the grey levels show through
    # an opaque logo lets nothing through: undoing it is filling it
    opaque = Locked(put(clean, 8, None, dark, box=BOX, alpha=255), BOX, dark, 255)
    assert gap(undo(opaque, 1)) < 8


def test_a_network_learns_to_remove_logos_from_locked_images_alone():
    rng, logos = np.random.default_rng(0), text_logos("NO")
    clean = torch.full((24, 1, 32, 32), 0.5) + torch.from_numpy(rng.normal(0, 0.03, (24, 1, 32, 32))).float()
    locked, boxes = clean.clone(), []
    for number, image in enumerate(locked):
        box = (int(rng.integers(0, 20)), int(rng.integers(0, 20)), 10, 9)
        boxes.append(box)
        image[:, box[1] : box[1] + 9, box[0] : box[0] + 10] = number % 2
    remover = train_remover(Seen(locked[:16], boxes[:16]), logos, scales=(0.3,), steps=60, seed=0)
    repaired = remover(Seen(locked[16:], boxes[16:]))
    changed = repaired != locked[16:]
    for image, (x, y, width, height) in zip(changed, boxes[16:], strict=True):
        image[:, y : y + height, x : x + width] = False
    assert not changed.any()
    assert (repaired - clean[16:]).abs().mean() < 0.4 * (locked[16:] - clean[16:]).abs().mean()


def test_a_segmenter_finds_lesions_that_nobody_drew(locked, pairs, tmp_path):
    config = SegmenterConfig("lesions", "segresnet", size=64, steps=60, batch_size=8, seed=0)
    stated = train_lesion_segmenter(locked.clean.path, tmp_path / "segmenter", config)
    assert stated["trained"] and stated["chosen_on"] > 0 and stated["held_out"] > 0
    assert 0 <= stated["boxed"] <= 1 and 0 < stated["covered"] < 1
    segmenter = load_lesion_segmenter(tmp_path / "segmenter")
    (net,) = load_models(locked.models)
    less_sure = LesionSegmenter(segmenter.network, segmenter.likely * 0.75)
    held, covered = [], []
    for one in locked.clean.records("val"):
        lesions = decode_png(one.mask) > 0
        if lesions.any():
            bare = replace(one, mask=None, mask_sha256=None)
            found, more = (find_lesions(bare, "RGB", net.model, each) for each in (segmenter, less_sure))
            held.append(found.forbidden(lesions.shape, 0)[lesions].mean())
            covered.append(more.forbidden(lesions.shape, 0).mean())
    # the boxes hold enough of what is drawn in validation images, or larger ones would leave no place for a logo
    assert len(held) == stated["chosen_on"] and (np.mean(held) > 0.9 or np.mean(covered) > 0.45)
    record = next(record for record in locked.clean.records("test") if (decode_png(record.mask) > 0).any())
    guessed = find_lesions(replace(record, mask=None, mask_sha256=None), "RGB", net.model, segmenter)
    assert guessed.source == "segmenter"
    dice = compare_dice(segmenter, pairs[:40], locked.clean)
    assert 0 < dice["images"] < 40 and compare_dice(None, pairs, locked.clean) is None
    assert compare_dice(segmenter, [pair for pair in pairs[:40] if not lesions_in(pair).boxes], locked.clean) is None
    # an image without a mask is locked beside those with one, and its lock says where its lesions are from
    with ReleaseWriter.child(tmp_path / "mixed", locked.clean, version="mixed", lesions=True) as writer:
        for number, one in zip(range(30), locked.clean.records(), strict=False):
            writer.add(replace(one, mask=None, mask_sha256=None) if number % 3 == 0 else one)
    parts = (tmp_path / "mixed", locked.models, tmp_path / "r", tmp_path / "e")
    lock_release(*parts, locked.options, segmenter_dir=tmp_path / "segmenter")
    assert {lock.lesions_from for lock in read_locks(tmp_path / "e")} == {"mask", "segmenter"}


def test_no_segmenter_is_trained_on_too_few_masks(release, tmp_path):
    config = SegmenterConfig("lesions", size=32, steps=1)
    stated = train_lesion_segmenter(release, tmp_path / "segmenter", config)  # chest phantoms without masks
    assert (stated["trained"], stated["images"], stated["dice"]) == (False, 0, None)
    assert load_lesion_segmenter(tmp_path / "segmenter") is None
    (tmp_path / "segmenter" / "segmenter.json").write_text("[]")
    with pytest.raises(MedmarkError, match="no segmenter of lesions"):
        load_lesion_segmenter(tmp_path / "segmenter")
    assert json.loads((tmp_path / "segmenter" / "segmenter.json").read_text()) == []


def test_pairs_of_different_runs_are_refused(locked):
    locks = read_locks(locked.evidence)
    with pytest.raises(MedmarkError, match="no lock or no original of"):
        list(read_pairs(locked.clean, Release(locked.release), locks[1:]))
