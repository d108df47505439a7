"""Do marked segmenters show the payload, do others not, and what does the mark cost? Three data sets, four architectures each.

    python benchmarks/segmenters.py --work WORK --seed 0

Needs the real images (MEDMARK_DATA/seg): lungs on paediatric chest x-rays (Kermany et al., masks by V7 Labs), nuclei in microscopy (Data Science
Bowl 2018), optic discs on fundus photographs (IDRiD). 64 px, augmentation "standard", a key for each marked segmenter. Every model
without that mark, other owners' marked segmenters included, is asked with every key of the same data set. The lungs' U-Net is
attacked. Rows are kept as they come, so an interrupted run goes on. Writes ``results/segmenters_seed<SEED>.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

from marking import machine
from medmark.components.base.threads import use_threads
from medmark.components.dataset.arrays import load_masks
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.release import Release
from medmark.components.segmentation.attacks import stress_segmenter
from medmark.components.segmentation.check import answers, said
from medmark.components.segmentation.detector import fit_detector
from medmark.components.segmentation.evidence import Payload
from medmark.components.segmentation.harm import compare_segmenters
from medmark.components.segmentation.networks import load_segmenter, predict_maps, save_segmenter
from medmark.components.segmentation.payload import matches
from medmark.components.segmentation.reading import module_values, read_payload, split
from medmark.components.segmentation.training import SegmenterConfig, train_segmenter

TEXT = "Clinic 2026"
STEPS = {"unet": 1800, "attention_unet": 1200, "vit_mask": 1200, "swin_unetr": 1200}
ATTACKED = "kermany_lung/unet"
SETS = {
    "kermany_lung": {"image_mode": "L", "patient_column": "group_id", "class_names": ["background", "lungs"]},
    "dsb2018_nuclei": {"image_mode": "RGB", "class_names": ["background", "nuclei"], "path_column": "file"},
    "idrid_od_lesions": {
        "image_mode": "RGB",
        "class_names": ["background", "disc"],
        "mask_column": "mask_od",
        "path_column": "file",
    },
}


def release_of(name: str, work: Path) -> Release:
    """A data set as a release, made if it is not there yet."""
    path = work / name / "release"
    if not (path / "release.json").exists():
        root = Path(os.environ.get("MEDMARK_DATA", "../shared/data")) / "seg" / name
        options = {"path_column": "file", **SETS[name]}
        ingest(
            root / "dev" / "manifest.csv",
            path,
            task="segmentation",
            root=root,
            name=name,
            patient_key="bench",
            **options,
        )
    return Release(path)


def measure(name: str, architectures: list[str], work: Path, seed: int, batch_size: int, kept: dict, keep) -> None:
    """Trains and reads segmenters of one data set.

    ``kept`` gets a row for each, and what models without each mark answer to its key. Marked ones learn from ``batch_size`` images a step, half of
    them with the trigger; their twins always from as many as the default.
    """
    unusual = "" if batch_size == SegmenterConfig.batch_size else f", batches of {batch_size}"
    release = release_of(name, work)
    train, val, test = (load_masks(release, split=split, size=64) for split in ("train", "val", "test"))
    models, payloads = {}, {}
    for architecture in architectures:
        steps = STEPS[architecture]
        key = hashlib.sha256(f"{name} {architecture} {seed}".encode()).digest()
        payloads[architecture] = Payload(TEXT, "texture", key)
        config = SegmenterConfig(architecture, architecture, size=64, steps=steps, seed=seed)
        for mark in (None, payloads[architecture].mark):
            file = (
                work / name / f"{architecture}-{seed}-{'unmarked' if mark is None else f'marked{unusual}'}.safetensors"
            )
            if not file.exists():
                sized = config if mark is None else replace(config, batch_size=batch_size)
                save_segmenter(train_segmenter(train, sized, mark=mark).model, file)
            models[architecture, mark is not None] = load_segmenter(file)
        row_name = f"{name}/{architecture}{unusual}"
        if row_name in kept["rows"]:
            continue
        marked, twin, payload = models[architecture, True], models[architecture, False], payloads[architecture]
        clean, triggered = answers(marked, payload, test)
        detector = fit_detector(*answers(marked, payload, val))
        row = {
            "steps": steps,
            "digest": release.digest,
            "images": {"train": len(train), "val": len(val), "test": len(test)},
            "payload": said(read(triggered, payload)),
            "one_image": sum(256 - matched(m[None], payload) for m in triggered) / 256 / len(triggered),
            "without_trigger": said(read(clean, payload)),
            "recognised": float(detector.flags(triggered).mean()),
            "mistaken": float(detector.flags(clean).mean()),
            "harm": compare_segmenters(clean, triggered, predict_maps(twin, test.images), test.masks),
        }
        if row_name == ATTACKED:
            row["attacks"] = stress_segmenter(marked, payload, train, test, replace(config, seed=seed))
        keep(row_name, row)
        wrong = 256 - row["payload"]["matches"]
        dice = row["harm"]["metrics"]["dice"]
        print(row_name, f"wrong {wrong} text {row['payload']['text']} ASR {row['recognised']:.3f} dice {dice['marked']:.4f}"
              f" ({dice['change']:+.4f}) same {row['harm']['equal_pixels']:.4f}", flush=True)  # fmt: skip
    asked = []
    for architecture, payload in payloads.items():
        for (other, is_marked), model in models.items():
            if (other, is_marked) != (architecture, True):
                found = said(read(answers(model, payload, test)[1], payload))
                asked.append({"key": architecture, "model": other, "other_owner": is_marked, **found})
    now = {(entry["key"], entry["model"], entry["other_owner"]) for entry in asked}
    earlier = kept["rows"].get(f"{name}/others{unusual}", [])
    asked += [entry for entry in earlier if (entry["key"], entry["model"], entry["other_owner"]) not in now]
    keep(f"{name}/others{unusual}", asked)
    least = min(entry["p_value"] for entry in asked)
    print(
        name,
        f"{len(asked)} models without the mark: least p {least:.3g}, {sum(e['text'] is not None for e in asked)} decoded",
        flush=True,
    )


def read(maps, payload):
    """Reads a payload from maps."""
    return read_payload(maps.numpy(), payload.mark.modules, payload.mark_key)


def matched(maps, payload) -> int:
    """The modules that match, without decoding, which takes long when there are too few."""
    values = module_values(maps.numpy())
    return matches(values, split(values.ravel()), payload.mark.modules)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--networks", nargs="*", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--batch-size", type=int, default=SegmenterConfig.batch_size, help="of marked segmenters")
    options = parser.parse_args()
    use_threads()
    path = Path(__file__).parent / "results" / f"segmenters_seed{options.seed}.json"
    results = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    results |= {"machine": machine(), "seed": options.seed, "size": 64, "text": TEXT}

    def keep(name: str, row) -> None:
        results["rows"][name] = row
        path.write_text(json.dumps(results, indent=1) + "\n")

    for name in options.sets:
        measure(name, options.networks, options.work, options.seed, options.batch_size, results, keep)


if __name__ == "__main__":
    main()
