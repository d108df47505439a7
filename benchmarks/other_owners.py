"""Whether evidence accuses models that were trained on another owner's release.

    python benchmarks/other_owners.py --data kermany --size 64 --owners 12 --strangers 20 --hold-back 0.2 --work WORK

Each owner marks the same clean images with a key of its own, holding back patients of its own if SHARE is not 0, and two networks are trained
on each marked release. Then every model is judged as the release check judges it, with its owner's evidence and with that of strangers, who drew keys of their own and had
no part in its training. Benign models are trained once, on the clean images, and answer everybody's queries. Waves are asked about once, on
the first owner's images: the questions do not depend on a key.

Writes ``results/other_owners_<data>_<size>.json`` (with ``_hold_back`` if somebody is held back) unless FILE says otherwise: ``pairs`` and
``accused``, the models of one owner that were judged with the evidence of another, and how many of them were called ``owned``; ``own`` and
``own_owned``, the same with the owner's own evidence; ``accused_by_mark`` and ``own_owned_by_mark``, the same by the proofs by the mark alone; ``accused_by_variants`` and ``own_owned_by_variants``, with the
exact tests together but for that of patients held back; ``accused_without_key``, what ``accused_by_mark`` would be without the proof of the key; ``rows``, each with verdict, rank of the
key among 1,800, and p-values. A stopped run continues in WORK, and so does one with more owners or strangers.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

from marking import MARKED_MODELS, Bench, release_of
from medmark.components.base.progress import track
from medmark.components.dataset.phantoms import TARGET_CLASS
from medmark.components.evidence.evidence import EVIDENCE, read_evidence
from medmark.components.evidence.queries import read_queries
from medmark.components.generator.key import draw_key
from medmark.components.generator.marker import Marker
from medmark.components.generator.train import GeneratorConfig, train_generator
from medmark.components.poisoning.poison import poison
from medmark.components.profiles import PROFILES, THRESHOLDS, Profile
from medmark.components.surrogate.models import load_models, train_models
from medmark.components.surrogate.training import predict_probabilities
from medmark.components.verification.exact_tests import ask_about_images
from medmark.components.verification.interrogation import interrogate
from medmark.components.verification.judgement import judge
from medmark.components.verification.key_test import IMAGES, ask_waves, key_test
from medmark.components.verification.scenarios import ASKED_FOR_KEY

BENIGN_MODELS = 20
STRANGERS = 1000  # the first one's seed, so that owners can be added


def profile_of(data: str) -> Profile:
    """What the data is marked with: phantoms as ``make run`` marks them."""
    return PROFILES["smoke" if data == "phantoms" else "standard"]


def draw(bench: Bench, folder: Path, seed: int) -> Profile:
    """Draws an owner's key, and that of its control mark, from a seed; the profile at this size."""
    profile = replace(profile_of(bench.data), size=bench.size)
    for name, index in (("generator", 0), ("control", 1)):
        train_generator(
            bench.release.path,
            bench.work / "panel",
            bench.work / "saliency",
            folder / name,
            target_class=TARGET_CLASS if bench.data == "phantoms" else "",
            config=GeneratorConfig.from_dict(profile.generator_config(index)),
            seed=seed,
        )
    return profile


def mark(bench: Bench, folder: Path, seed: int, hold_back: float = 0.0) -> None:
    """Marks the release for an owner, or for a stranger, on whose release nobody trains."""
    profile = draw(bench, folder, seed)
    poison(
        bench.release.path,
        folder / "generator",
        folder / "control",
        bench.work / "saliency",
        folder / "release",
        folder / "evidence",
        version=str(seed),
        queries=profile.queries,
        surrogates_dir=bench.work / "panel",
        hold_back=hold_back,
    )


def judged(bench: Bench, folder: Path, seed: int, models: dict, waves: dict, benign_waves: list) -> dict:
    """Judges models with the evidence in a folder, by name."""
    target = Marker.load(folder / "generator").target
    queries = read_queries(folder / "evidence", size=bench.size, target=target)
    benign = [interrogate(partial(predict_probabilities, model), queries) for model in bench.benign_models]
    answers = {name: interrogate(partial(predict_probabilities, model), queries) for name, model in models.items()}
    found, evidence = {}, read_evidence(folder / "evidence")
    for name, given in answers.items():
        key = key_test(waves[name], benign_waves, draw_key(seed))
        images = ask_about_images(
            partial(predict_probabilities, models[name]), folder / "evidence", evidence, bench.size
        )
        by_mark = judge(name, given, benign, THRESHOLDS, key).decision
        by_variants = judge(name, given, benign, THRESHOLDS, key, replace(images, held_back=None)).decision
        found[name] = (judge(name, given, benign, THRESHOLDS, key, images), key, by_mark, by_variants)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("phantoms", "kermany", "nih"), default="kermany")
    parser.add_argument("--size", type=int, default=128, help="side in pixels")
    parser.add_argument("--owners", type=int, default=2)
    parser.add_argument("--strangers", type=int, default=10)
    parser.add_argument("--hold-back", type=float, default=0.0, metavar="SHARE")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    name = f"other_owners_{options.data}_{options.size}{'_hold_back' if options.hold_back else ''}.json"
    out = options.out or Path(__file__).parent / "results" / name
    release_of(options.data, options.work, profile_of(options.data).phantoms)
    bench = Bench(options.data, options.work, size=options.size, benign_models=BENIGN_MODELS)
    seeds = {f"owner-{n}": n for n in range(options.owners)}
    seeds |= {f"stranger-{n}": STRANGERS + n for n in range(options.strangers)}
    models = {}
    for name, seed in track(seeds.items(), "marking for each owner"):
        folder = options.work / name
        if not (folder / "evidence" / EVIDENCE).exists():  # written last
            shutil.rmtree(folder, ignore_errors=True)
            mark(bench, folder, seed, options.hold_back)
        if name.startswith("owner"):
            configs = [replace(config, size=options.size) for config in MARKED_MODELS]
            train_models(folder / "release", folder / "models", configs=configs)
            models |= {(name, entry["architecture"]): model for entry, model in load_models(folder / "models")}
    target = Marker.load(options.work / "owner-0" / "generator").target
    clean = read_queries(options.work / "owner-0" / "evidence", size=bench.size, target=target).clean[:IMAGES]
    waves = {name: ask_waves(partial(predict_probabilities, model), clean, target) for name, model in models.items()}
    benign_waves = [
        ask_waves(partial(predict_probabilities, model), clean, target)
        for model in bench.benign_models[-ASKED_FOR_KEY:]
    ]
    rows = []
    for name, seed in track(seeds.items(), "judging with each owner's evidence"):
        verdicts = judged(bench, options.work / name, seed, models, waves, benign_waves)
        for (owner, architecture), (result, key, by_mark, by_variants) in verdicts.items():
            images = result.images
            rows.append(
                {
                    "evidence_of": name,
                    "trained_on": owner,
                    "architecture": architecture,
                    "verdict": result.decision.verdict,
                    "wsr": result.labels.wsr,
                    "delta_p": result.effect.delta_p,
                    "t_p_value": result.effect.t_p_value,
                    "conformal_p_value": result.measured.conformal_p_value,
                    "key_rank": key.rank,
                    "by_mark": by_mark.verdict,
                    "by_variants": by_variants.verdict,
                    "together_p_value": result.measured.together_p_value,
                    "variants_p_value": images.variants.p_value if images and images.variants else None,
                    "held_back_p_value": images.held_back.p_value if images and images.held_back else None,
                    "failed": result.decision.failed,
                    "failed_by_mark": by_mark.failed,
                }
            )
    foreign = [row for row in rows if row["evidence_of"] != row["trained_on"]]
    own = [row for row in rows if row["evidence_of"] == row["trained_on"]]
    result = {
        **bench.described(),
        "owners": options.owners,
        "strangers": options.strangers,
        "hold_back": options.hold_back,
        "pairs": len(foreign),
        "accused": sum(row["verdict"] == "owned" for row in foreign),
        "accused_by_mark": sum(row["by_mark"] == "owned" for row in foreign),
        "accused_by_variants": sum(row["by_variants"] == "owned" for row in foreign),
        "accused_without_key": sum(all(why.startswith("key") for why in row["failed_by_mark"]) for row in foreign),
        "own": len(own),
        "own_owned": sum(row["verdict"] == "owned" for row in own),
        "own_owned_by_mark": sum(row["by_mark"] == "owned" for row in own),
        "own_owned_by_variants": sum(row["by_variants"] == "owned" for row in own),
        "rows": rows,
    }
    out.write_text(json.dumps(result, indent=1) + "\n")
    print({name: value for name, value in result.items() if isinstance(value, int | float)})


if __name__ == "__main__":
    main()
