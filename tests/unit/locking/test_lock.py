"""Locking a release, and what it does to images."""

import json
from dataclasses import replace

import numpy as np
import pytest
from medmark.components.base.digests import file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import load_arrays
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.display import to_unit
from medmark.components.dataset.release import Release
from medmark.components.locking.lesions import boxes_of, find_lesions
from medmark.components.locking.lock import LockOptions, lock_release
from medmark.components.locking.locks import read_locks
from medmark.components.locking.logo import Logo, put, read_logo, read_logos_of, text_logos
from medmark.components.surrogate.models import load_models
from PIL import Image


def test_every_image_is_locked_beside_its_lesions(locked):
    release = Release(locked.release)
    release.verify()
    assert (release.parent, release.version, release.lesions) == (locked.clean.digest, "1-locked", False)
    assert locked.said == {
        "locked": 240, "left_out": 0, "evaluations": locked.said["evaluations"], "release_digest": release.digest,
    }  # fmt: skip
    locks = {lock.image_id: lock for lock in read_locks(locked.evidence)}
    logos = {logo.digest for logo in locked.options.logos}
    for clean in locked.clean.records():
        lock, made = locks[clean.image_id], locked.records[clean.image_id]
        before, after = decode_png(clean.image, mode="RGB"), decode_png(made.image, mode="RGB")
        changed = (before != after).any(axis=2)
        x, y, width, height = lock.box
        inside = np.zeros_like(changed)
        inside[y : y + height, x : x + width] = True
        assert changed.any() and not (changed & ~inside).any()
        assert not (inside & (decode_png(clean.mask) > 0)).any()
        assert (made.label, made.patient_id, made.split) == (clean.label, clean.patient_id, clean.split)
        assert made.mask is None and lock.masked and lock.lesions_from == "mask" and lock.logo in logos


def test_the_classifier_fails_more_often_than_on_other_places(locked):
    (net,) = load_models(locked.models)
    clean, hidden = (load_arrays(Release(path), size=64) for path in (locked.clean.path, locked.release))
    right = net.model(clean.images).argmax(1) == clean.labels
    kept = (net.model(hidden.images).argmax(1) == clean.labels)[right].float().mean()
    records = list(locked.clean.records())
    locks = {lock.image_id: lock for lock in read_locks(locked.evidence)}
    by_logo = {logo.digest: logo for logo in locked.options.logos}
    rng = np.random.default_rng(0)
    shown = clean.images.clone()
    for i, record in enumerate(records):  # the same logo, size and opacity anywhere else that is free of lesions
        lock, pixels, mask = locks[record.image_id], decode_png(record.image, mode="RGB"), decode_png(record.mask) > 0
        for _ in range(200):
            x, y = rng.integers(0, record.width - lock.width + 1), rng.integers(0, record.height - lock.height + 1)
            if not mask[y : y + lock.height, x : x + lock.width].any():
                break
        placed = put(pixels, 8, None, by_logo[lock.logo], box=(x, y, lock.width, lock.height), alpha=lock.alpha)
        image = Image.fromarray(placed).resize((64, 64))
        shown[i] = shown.new_tensor(np.asarray(image) / 255).permute(2, 0, 1)
    elsewhere = (net.model(shown).argmax(1) == clean.labels)[right].float().mean()
    assert right.float().mean() > 0.6 and kept < 0.5 and kept < elsewhere - 0.1


def test_the_same_secrets_give_the_same_release(locked, tmp_path):
    again = lock_release(locked.clean.path, locked.models, tmp_path / "r", tmp_path / "e", locked.options)
    assert again == locked.said


def test_nothing_secret_is_public_and_no_key_is_in_the_evidence(locked):
    public = b"".join(path.read_bytes() for path in sorted(locked.release.rglob("*")) if path.is_file())
    locks = read_locks(locked.evidence)
    assert locks[0].salt not in public and locks[0].sealed not in public
    held = b"".join(path.read_bytes() for path in sorted(locked.evidence.rglob("*")) if path.is_file())
    assert locked.options.mark_key.encode() not in held and bytes.fromhex(locked.options.mark_key) not in held
    assert {entry["name"] for entry in json.loads((locked.evidence / "grants.json").read_bytes())} == {
        "owner",
        "clinic",
    }


def test_lesions_are_guessed_where_there_is_no_mask(locked):
    (net,) = load_models(locked.models)
    record = next(locked.clean.records())
    guessed = find_lesions(replace(record, mask=None, mask_sha256=None), "RGB", net.model, None)
    assert guessed.source == "saliency"
    assert 0 < guessed.forbidden((64, 64), 0).mean() < 0.7
    assert boxes_of(np.eye(5, dtype=bool)) == [(0, 0, 5, 5)]


def test_who_cannot_be_locked_is_refused(locked, release, tmp_path):
    with pytest.raises(MedmarkError, match="nobody could unlock"):
        lock_release(locked.clean.path, locked.models, tmp_path / "r", tmp_path / "e", _for(locked, {}))
    with pytest.raises(MedmarkError, match="no public key: key of x"):
        lock_release(locked.clean.path, locked.models, tmp_path / "r", tmp_path / "e", _for(locked, {"x": "no key"}))
    logos = (*text_logos("A"), *text_logos("A longer one"))
    with pytest.raises(MedmarkError, match="logos of several shapes"):
        options = LockOptions(**{**vars(locked.options), "logos": logos})
        lock_release(locked.clean.path, locked.models, tmp_path / "r", tmp_path / "e", options)
    with pytest.raises(MedmarkError, match="classifiers that do not fit"):  # two classes of grey images
        lock_release(release, locked.models, tmp_path / "r", tmp_path / "e", locked.options)
    assert not (tmp_path / "r" / "release.json").exists()


def _for(locked, recipients):
    return LockOptions(**{**vars(locked.options), "recipients": recipients})


@pytest.mark.parametrize(
    "display",
    [
        None,
        {"WindowCenter": 1500, "WindowWidth": 1800},
        {"WindowCenter": 1500, "WindowWidth": 1800, "PhotometricInterpretation": "MONOCHROME1"},
    ],
)
def test_a_logo_on_stored_values_of_12_bits(display):
    pixels = np.random.default_rng(0).integers(700, 2300, (80, 100)).astype(np.uint16)
    dark, light = text_logos("A")
    for logo, plate in ((dark, 0.15), (light, 1.0)):
        made = put(pixels, 12, display, logo, box=(10, 20, 40, 30), alpha=255)
        shown = to_unit(made, 12, display)
        assert made.dtype == np.uint16 and made.max() < 4096
        assert abs(shown[20:24, 10:14].mean() - plate) < 0.06
        outside = np.ones(pixels.shape, bool)
        outside[20:50, 10:50] = False
        assert (made == pixels)[outside].all()
        assert (put(pixels, 12, display, logo, box=(10, 20, 40, 30), alpha=0) == pixels).all()


def test_logos_that_were_changed_are_refused(tmp_path):
    (tmp_path / "logo.png").write_bytes(text_logos("NO")[0].png())
    (read,) = read_logos_of([(tmp_path / "logo.png", file_sha256(tmp_path / "logo.png"))])
    assert read.digest == text_logos("NO")[0].digest
    with pytest.raises(MedmarkError, match="logo was changed"):
        read_logos_of([(tmp_path / "logo.png", 64 * "0")])


def test_logos_are_read_and_refused(tmp_path):
    image = np.zeros((20, 30, 4), np.uint8)
    image[5:15, 5:25] = (200, 10, 10, 255)
    Image.fromarray(image).save(tmp_path / "logo.png")
    logo = read_logo(tmp_path / "logo.png")
    assert (logo.pixels == image).all() and logo.digest == Logo(image.copy()).digest != text_logos("x")[0].digest
    Image.fromarray(image * 0).save(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (3000, 2)).save(tmp_path / "wide.png")
    for name, message in (
        ("none", "invisible logo"), ("text", "no logo"), ("wide", "logo too large"), ("absent", "no logo"),
    ):  # fmt: skip
        with pytest.raises(MedmarkError, match=message):
            read_logo(tmp_path / f"{name}.png")
    for text in ("", " ", "x" * 25, "a\n"):
        with pytest.raises(MedmarkError, match="text for a logo"):
            text_logos(text)
