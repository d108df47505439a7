"""Adversaries and benign models audited through ONNX files and through a v2 server, by probabilities and by labels.

    python benchmarks/audit_suspects.py RUN --clean CLEAN --work WORK --seed SEED [--profile standard]

RUN is the folder of a finished mark-release, CLEAN the release that it was made from (``medmark ingest`` with the run's
options and seed gives it again; its digest is checked). Trains the profile's marked models on the marked release and, on the
clean one, 20 benign models that the evidence has never seen (other seeds than those that calibrate it). Each is then
audited in four ways: as an ONNX file and through HTTP (MLServer on loopback), by probabilities and by labels. Writes
``results/audit_suspects_<name>.json``.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from marking import machine
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.release import Release
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.secrets import seeds_of
from medmark.components.profiles import PROFILES
from medmark.components.surrogate.models import load_models, train_models
from medmark.components.surrogate.networks import Classifier
from medmark.components.surrogate.training import TrainConfig
from medmark.components.suspects.contract import Contract
from medmark.components.verification.audit import audit

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from v2_server import MLServer

BENIGN = 20
SEED = 2000  # benign models of the evidence start at 1000, marked models at 5000


class Labels(torch.nn.Module):
    """A classifier that answers with class indices."""

    def __init__(self, model: Classifier):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images).argmax(dim=1)


def export(model: torch.nn.Module, path: Path, size: int) -> Path:
    """As ONNX, with a free batch size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.onnx.export(
        model.eval(),
        (torch.zeros(2, 1, size, size),),
        str(path),
        dynamo=True,
        verbose=False,
        input_names=["image"],
        output_names=["answer"],
        dynamic_shapes=({0: torch.export.Dim("n")},),
    )
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished mark-release")
    parser.add_argument("--clean", type=Path, required=True, help="the release that it was made from")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--profile", default="standard", choices=PROFILES)
    parser.add_argument("--seed", type=int, required=True, help="that the run was given")
    options = parser.parse_args()
    profile, evidence = PROFILES[options.profile], read_evidence(options.run / "evidence")
    if Release(options.clean).digest != evidence["parent_digest"]:
        raise MedmarkError(f"{options.clean} is not what {options.run} was made from; ingest with the run's options")
    seed = seeds_of(options.seed)["models_seed"]
    marked_models = [TrainConfig(**config) for config in profile.marked_configs(seed)]
    names = profile.benign_architectures.split(",")
    benign_models = [
        TrainConfig(
            name=f"stranger-{i:02d}",
            size=profile.size,
            epochs=profile.epochs,
            seed=seed + SEED + i,
            architecture=names[i % len(names)],
            subset=(1.0, 0.9, 0.8)[i % 3],
            augmentation=("strong", "standard")[i % 2],
        )
        for i in range(BENIGN - len(marked_models))
    ]
    benign_models += [
        replace(config, name=f"stranger-{config.name}", seed=config.seed + SEED) for config in marked_models
    ]
    train_models(options.run / "release", options.work / "victims", configs=marked_models)
    train_models(options.clean, options.work / "innocents", configs=benign_models)
    files, labels, guilty = {}, {}, {}
    for role in ("victims", "innocents"):
        for entry, model in load_models(options.work / role):
            name = entry["name"]
            files[name] = export(model, options.work / "onnx" / name / "logits.onnx", profile.size)
            labels[name] = export(Labels(model), options.work / "onnx" / name / "labels.onnx", profile.size)
            guilty[name] = role == "victims"
    classes = evidence["class_names"]
    served = {name: (path, None) for name, path in files.items()}
    served |= {f"{name}-names": (path, classes) for name, path in files.items()}
    rows = []
    with MLServer(options.work / "server", served, size=profile.size, classes=len(classes)) as server:
        for name in files:
            for way, answers, target in (
                ("onnx", "logits", str(files[name])),
                ("onnx", "labels", str(labels[name])),
                ("http", "probabilities", server.url(name)),
                ("http", "labels", server.url(f"{name}-names")),
            ):
                out = options.work / "audits" / f"{way}-{answers}-{name}"
                made = audit(options.run / "evidence", [target], out, contract=Contract(answers=answers))
                (suspect,) = made["suspects"]
                rows.append({"way": way, "answers": answers, "model": name, "guilty": guilty[name], **suspect})
                del rows[-1]["path_log10"], rows[-1]["name"]
                print(way, answers, name, suspect["verdict"], suspect["queries"], flush=True)
    results = {
        "data": evidence_name(options.run),
        "release_digest": evidence["release_digest"],
        "profile": options.profile,
        "seed": options.seed,
        "summary": summary(rows),
        "rows": rows,
        "machine": machine(),
    }
    path = Path(__file__).parent / "results" / f"audit_suspects_{results['data']}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results["summary"], indent=1))


def evidence_name(run: Path) -> str:
    return Release(run / "release").name


def summary(rows: list[dict]) -> list[dict]:
    """Verdicts and queries by way and kind of model."""
    table = []
    for way, answers, guilty in sorted({(r["way"], r["answers"], r["guilty"]) for r in rows}):
        part = [r for r in rows if (r["way"], r["answers"], r["guilty"]) == (way, answers, guilty)]
        queries = [r["queries"] for r in part]
        verdicts = {v: sum(r["verdict"] == v for r in part) for v in ("owned", "not_owned", "inconclusive")}
        table.append(
            {
                "way": way,
                "answers": answers,
                "trained on the release": guilty,
                "models": len(part),
                **verdicts,
                "median_queries": float(np.median(queries)),
                "max_queries": max(queries),
            }
        )
    return table


if __name__ == "__main__":
    main()
