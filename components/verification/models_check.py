"""Check a mark with models that somebody else trained: the step for pipelines whose models are not medmark's."""

from __future__ import annotations

from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.queries import read_queries
from medmark.components.generator.key import draw_key
from medmark.components.suspects.contract import Contract
from medmark.components.suspects.suspects import SuspectModel, open_suspect
from medmark.components.verification.exact_tests import ask_about_images
from medmark.components.verification.scenarios import verify
from medmark.components.verification.sealing import seal_evidence
from medmark.components.verification.verdict import Thresholds


def check_models(
    evidence_dir: str | Path,
    benign_dir: str | Path,
    marked_dir: str | Path,
    out_dir: str | Path,
    out_evidence: str | Path,
    *,
    contract: Contract,
    thresholds: Thresholds,
) -> dict[str, Any]:
    """Runs the scenarios of :func:`medmark.components.verification.scenarios.verify` and completes the evidence.

    Args:
        evidence_dir: private evidence, as poisoning left it.
        benign_dir: folder with ONNX files of models trained without the mark; the name of a file is that of its model.
        marked_dir: folder with ONNX files of models trained on the marked release.
        out_dir: gets ``verdict.json``.
        out_evidence: gets the complete evidence; readable by its owner only.
        contract: what all these models expect and answer.
        thresholds: of this check and of every later audit.

    Returns:
        The content of ``verdict.json``: what ``verify`` reports, and ``release_digest``.

    Raises:
        MedmarkError: no models or too few, models of different sizes, or one that does not fit the contract.
    """
    evidence, out = read_evidence(evidence_dir), Path(out_dir)
    names = list(evidence["class_names"])
    files = [_onnx_files(folder) for folder in (benign_dir, marked_dir)]
    with ExitStack() as stack:

        def opened(file: Path) -> SuspectModel:
            return stack.enter_context(closing(open_suspect(str(file), contract, class_names=names)))

        benign, marked = ({file.stem: opened(file) for file in some} for some in files)
        sizes = {model.size for model in (*benign.values(), *marked.values())}
        if len(sizes) != 1:
            raise MedmarkError(
                f"ONNX files of {len(sizes)} sizes in {benign_dir} and {marked_dir}; give models that were trained at one"
            )
        size = sizes.pop()
        queries = read_queries(evidence_dir, size=size, target=names.index(evidence["target_class"]))
        about_images = partial(ask_about_images, evidence_dir=evidence_dir, evidence=evidence, size=size)
        verdict, scores, waves = verify(marked, benign, queries, thresholds, draw_key(evidence["seed"]), about_images)
    verdict["release_digest"] = evidence["release_digest"]
    out.mkdir(parents=True, exist_ok=True)
    (out / "verdict.json").write_bytes(canonical_json(verdict))
    seal_evidence(evidence_dir, out_evidence, scores, thresholds, waves=waves)
    return verdict


def _onnx_files(folder: str | Path) -> list[Path]:
    files = sorted(Path(folder).glob("*.onnx"))
    if not files:
        raise MedmarkError(f"no ONNX file in {folder}; save each model there as NAME.onnx")
    return files
