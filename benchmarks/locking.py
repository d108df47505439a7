"""Locks: how far they carry from one network to another, what adversaries get back, and how fast the places of logos are found.

    python benchmarks/locking.py --data fundus --size 96 --seed 0 --work WORK --out FILE

Five networks are trained on a data set, and its test images are locked against each of them, and against the four others together. Every network is
then asked about every set of locked images: ``matrix`` has a row for what the locks were made against, a column for each network, and
the share of images still right of those that were right before. Beside it stand the same logos, as large and as opaque, at a random place.
``check`` is the ``verdict.json`` of the whole release locked against the first network, the others unseen, with its attacks.
``speed`` compares candidates a second with SciPy's differential evolution, which asks about one image and one candidate at a time, same network.

DATA is ``phantoms`` (fundus with masks of lesions), ``fundus`` (IDRiD: referable diabetic retinopathy or not, lesions drawn on some) or ``kermany``
(chest x-rays of normal, bacterial and viral). Needs the real images (MEDMARK_DATA) for the last two. A stopped run continues in WORK.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from marking import machine
from medmark.components.base.digests import canonical_json
from medmark.components.base.threads import device, mixed_precision, use_threads
from medmark.components.dataset.arrays import colour_tensor, resize
from medmark.components.dataset.fundus_phantoms import make_fundus_phantoms
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.release import Release
from medmark.components.locking.answers import LOCKED, RANDOM, Answers
from medmark.components.locking.check import CheckOptions, check_locks
from medmark.components.locking.lesion_segmenter import load_lesion_segmenter, read_stated, train_lesion_segmenter
from medmark.components.locking.lock import LockOptions, lock_images, lock_release, true_class
from medmark.components.locking.locks import Lock
from medmark.components.locking.logo import text_logos
from medmark.components.locking.pairs import Pair
from medmark.components.locking.profiles import LOCK_PROFILES
from medmark.components.locking.search import Places, search
from medmark.components.locking.verdict import LockThresholds
from medmark.components.segmentation.training import SegmenterConfig
from medmark.components.surrogate.models import load_models, train_models
from medmark.components.surrogate.networks import Classifier
from medmark.components.surrogate.training import TrainConfig
from PIL import Image
from scipy.optimize import differential_evolution

NETWORKS = {"resnet18": 1e-3, "densenet121": 1e-3, "mobilenet_v3_small": 1e-3, "efficientnet_b0": 1e-3, "vit": 5e-4}
EPOCHS = 25
SCIPY_IMAGES = 3
LOGOS = text_logos("NOT FOR ANALYSIS")
KEY = "5a" * 32  # nothing here is released


def release_of(data: str, work: Path, seed: int) -> Release:
    """The release, made if it is not there yet; splits follow from the seed."""
    release = work / "release"
    if (release / "release.json").exists():
        return Release(release)
    root = Path(os.environ.get("MEDMARK_DATA", "../shared/data"))
    if data == "phantoms":
        source = make_fundus_phantoms(work / "source", count=600, size=128)
        return ingest(source, release, name=data, image_mode="RGB", lesions=True, seed=seed, patient_key="phantoms")
    if data == "kermany":
        options = {"label_column": "label", "where": {"subset": "kermany"}, "patient_column": "group_id"}
        return ingest(
            root / "cxr" / "dev" / "manifest.csv", release, name=data, root=root / "cxr", seed=seed, **options
        )
    source = with_lesions(root, work / "source")
    options = {"label_column": "referable", "patient_column": "group_id", "class_names": ["not referable", "referable"]}
    options |= {"image_mode": "RGB", "lesions": True, "root": source}
    return ingest(source / "manifest.csv", release, name=data, seed=seed, **options)


def with_lesions(root: Path, source: Path) -> Path:
    """Joins IDRiD's graded photographs with the masks of its lesions, where there are any: all kinds in one mask."""
    (source / "masks").mkdir(parents=True, exist_ok=True)
    drawn = {}
    lesions = root / "seg" / "idrid_od_lesions"
    for row in csv.DictReader((lesions / "dev" / "manifest.csv").open()):
        parts = [lesions / row[f"mask_{kind}"] for kind in ("ex", "he", "ma", "se") if row[f"mask_{kind}"]]
        if not row["grading_file"] or not parts:
            continue
        mask = np.max([np.asarray(Image.open(part).convert("L")) > 0 for part in parts], axis=0)
        drawn[row["grading_file"]] = Path(row["file"]).stem + ".png"
        Image.fromarray(mask.astype(np.uint8)).save(source / "masks" / drawn[row["grading_file"]])
    rows = list(csv.DictReader((root / "fundus" / "dev" / "manifest.csv").open()))
    with (source / "manifest.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "referable", "group_id", "mask"])
        for row in rows:
            image, mask = root / "fundus" / row["file"], drawn.get(row["file"])
            if mask and Image.open(image).size != Image.open(source / "masks" / mask).size:
                mask = None  # cropped otherwise
            shutil.copyfile(image, source / image.name)
            writer.writerow([image.name, row["referable"], row["group_id"], f"masks/{mask}" if mask else ""])
    return source


def locked_pairs(release: Release, models: list[Classifier], options: LockOptions, segmenter) -> tuple[list, int]:
    """Test images locked against classifiers, as the check takes them; and how many candidates were asked about."""
    pairs, asked = [], 0
    for image in lock_images(release, models, options, segmenter, "test"):
        asked += image.found.evaluations
        if image.at is None or image.made is None:
            continue
        at = image.at
        lock = Lock(
            image.record.image_id, image.made.sha256, at.logo.digest, *at.box, at.alpha, at.scale, "", False, b"", b""
        )
        pairs.append((Pair(image.record, image.made, lock), image.lesions))
    return pairs, asked


def matrix(release: Release, models: dict[str, Classifier], options: LockOptions, segmenter, kept: dict, keep) -> None:
    """Fills ``matrix``: a row for each network, and one for each four."""
    rows = kept.setdefault("matrix", [])
    for against in [*([name] for name in models), *([other for other in models if other != name] for name in models)]:
        if any(row["against"] == against for row in rows):
            continue
        started = time.monotonic()
        pairs, asked = locked_pairs(release, [models[n] for n in against], options, segmenter)
        seconds = time.monotonic() - started
        answers = Answers(
            list(models.values()),
            {logo.digest: logo for logo in LOGOS},
            release.image_mode,
            options.search,
            np.random.default_rng(options.seed),
            attacked=0,
        )
        answers.add(pairs)
        covered = [p.lock.width * p.lock.height / (p.clean.width * p.clean.height) for p, _ in pairs]
        rows.append(
            {
                "against": against,
                "images": len(pairs),
                "locked": dict(zip(models, answers.accuracy(LOCKED), strict=True)),
                "random_place": dict(zip(models, answers.accuracy(RANDOM), strict=True)),
                "covered": float(np.mean(covered)),
                "candidates": asked,
                "seconds": round(seconds, 1),
            }
        )
        keep()


def speed(release: Release, model: Classifier, options: LockOptions) -> dict:
    """Candidates a second: many images in one batch, and SciPy on one image at a time."""
    config = replace(options.search, enough=-1.0, generations=4)  # neither stops early
    records = [record for _, record in zip(range(64), release.records("test"), strict=False)]
    images = torch.cat([resize(colour_tensor(record, release.image_mode), model.size) for record in records])
    labels = torch.tensor([record.label for record in records])
    places = [
        Places((r.height, r.width), np.zeros((r.height, r.width), bool), LOGOS, model.size, config) for r in records
    ]

    def score(index: np.ndarray, batch: torch.Tensor) -> np.ndarray:
        return true_class([model], batch, labels[index])

    def quick(index: np.ndarray, batch: torch.Tensor) -> np.ndarray:  # as locking asks
        with mixed_precision(device()):
            return score(index, batch)

    started = time.monotonic()
    ours = sum(found.evaluations for found in search(images, places, quick, config, range(len(records))))
    seconds = time.monotonic() - started
    started, asked = time.monotonic(), 0
    for number in range(SCIPY_IMAGES):

        def one(genes: np.ndarray, number: int = number) -> float:
            nonlocal asked
            asked += 1
            candidate = images[number].clone()
            places[number].draw(candidate, np.clip(genes, 0, 1))
            return float(score(np.array([number]), candidate[None])[0])

        differential_evolution(
            one,
            [(0, 1)] * 5,
            popsize=config.population // 5 + 1,
            maxiter=config.generations,
            tol=0,
            polish=False,
            rng=number,
        )
    alone = time.monotonic() - started
    return {
        "network": model.architecture,
        "batched": {"images": len(records), "candidates": ours, "a_second": round(ours / seconds, 1)},
        "scipy": {"images": SCIPY_IMAGES, "candidates": asked, "a_second": round(asked / alone, 1)},
        "times": round(ours / seconds / (asked / alone), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("phantoms", "fundus", "kermany"), required=True)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    use_threads()
    work = given.work
    work.mkdir(parents=True, exist_ok=True)
    release = release_of(given.data, work, given.seed)
    state = work / "kept.json"
    kept = json.loads(state.read_text()) if state.exists() else {}
    configs = [
        TrainConfig(name, name, size=given.size, epochs=EPOCHS, learning_rate=rate, seed=100 * given.seed + number)
        for number, (name, rate) in enumerate(NETWORKS.items())
    ]
    train_models(release.path, work / "first", configs=configs[:1])
    train_models(release.path, work / "others", configs=configs[1:])
    segmenter = SegmenterConfig("lesions", "segresnet", size=-(-given.size // 32) * 32, steps=800, seed=given.seed)
    if not (work / "segmenter" / "segmenter.json").exists():
        train_lesion_segmenter(release.path, work / "segmenter", segmenter)
    owner = X25519PrivateKey.generate().public_key()
    options = LockOptions(
        version="locked",
        logos=LOGOS,
        search=LOCK_PROFILES["standard"].search,
        mark_key=KEY,
        seed=given.seed,
        recipients={"owner": owner.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()},
    )
    trained = [*load_models(work / "first"), *load_models(work / "others")]
    models = {entry["name"]: model for entry, model in trained}

    def keep() -> None:  # a stopped run leaves what it has
        state.write_bytes(canonical_json(kept))
        result = {
            "data": given.data,
            "size": given.size,
            "seed": given.seed,
            "counts": release.counts,
            "release_digest": release.digest,
            "machine": machine(),
            "search": asdict(options.search),
            "segmenter": read_stated(work / "segmenter"),
            "networks": {entry["name"]: entry["test_accuracy"] for entry, _ in trained},
            **kept,
        }
        given.out.write_text(json.dumps(result, indent=1) + "\n")

    if "speed" not in kept:
        kept["speed"] = [speed(release, model, options) for model in models.values()]
        keep()
    if "check" not in kept:
        paths = (release.path, work / "first", work / "locked", work / "evidence")
        lock_release(*paths, options, segmenter_dir=work / "segmenter")
        check = CheckOptions(KEY, given.seed, options.search, LockThresholds(), LOCK_PROFILES["standard"].removal_steps)
        parts = (release.path, work / "locked", work / "evidence", work / "first", work / "others", work / "segmenter")
        kept["check"] = check_locks(*parts, work / "check", check, seconds={})
        keep()
    matrix(release, models, options, load_lesion_segmenter(work / "segmenter"), kept, keep)
    keep()


if __name__ == "__main__":
    main()
