"""Auditing suspects with complete evidence: what ``medmark audit`` does.

A suspect is asked a few images at a time, in the evidence's random order, and no more than it takes. The verdict is
``owned`` only if all of this holds, ``not_owned`` as soon as something speaks against it, else ``inconclusive``:

1. e-values against "delta-P is at most tau", "delta-P beyond the control mark is at most tau" and "flips to the target
   are no more than benign models show" all reach 1 / alpha (:mod:`medmark.components.verification.sequential`);
2. the suspect ranks above the benign models that underwent the same procedure;
3. no benign model goes beyond tau, and the control mark does not set the suspect off.

Several suspects are corrected by Holm's method, both in 1 and in 2. Whether the evidence was committed to before the
release went out is checked if the commitment is given; the verdict is about the model's answers alone, and without the
commitment it accuses nobody.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.evidence.answers import Answers, read_benign
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.queries import QuerySet, query_ids, read_queries
from medmark.components.lineage.commitment import verify_commitment
from medmark.components.lineage.keys import load_public
from medmark.components.suspects.answer_store import StoredSuspect
from medmark.components.suspects.http import Connection
from medmark.components.suspects.messages import Unavailable
from medmark.components.suspects.suspects import Contract, SuspectModel, UnopenedSuspect, open_suspect
from medmark.components.verification.audit import interrogate
from medmark.components.verification.sequential import (
    GUILTY,
    SequentialResult,
    first,
    join,
    log_wealth,
    rank_stopped,
    sequential_test,
)
from medmark.components.verification.statistics import upper_rate
from medmark.components.verification.verdict import Thresholds
from statsmodels.stats.multitest import multipletests

AUDIT_SCHEMA_VERSION = 2  # 2: what each suspect was taken for; all that version 1 has is still there
CHUNK = 4  # images between two looks, each asked clean, with the mark and with the control mark; arbitrary
STORE = "answers.sqlite"
COMMITMENT_FILES = {
    "commitment": "commitment.json",
    "public_key": "medmark.pub",
    "timestamp": "commitment.tsr",
    "timestamp_roots": "roots.pem",
}
UNCOMMITTED = (
    "that this evidence was committed to before the release went out was not shown; without that it accuses nobody"
)
EVIDENCE_FOR = ("effect", "contrast", "labels")
CLAIMS = {
    "effect": "the mark raises the target's probability by more than {tau:g}",
    "contrast": "it does so by more than {tau:g} beyond the control mark",
    "labels": "it flips answers to the target more often than in benign models",
}
MEANINGS = {
    "verdict": "owned: every proof holds; not_owned: something speaks against it; inconclusive: a proof is missing",
    "contract": "how the suspect was shown images and how its answers were read: an image x in [0, 1] as (x * scale - mean) / std",
    "model": "SHA-256 of the suspect's files, or of the endpoint's address and of what it says of its model",
    "identity": "SHA-256 over contract, model and the evidence's classes; answers are kept under it",
    "batch_size": "images a request, at most",
    "queries": "images that decided; each is asked as it is, with the mark and with the control mark",
    "asked": "images that were sent to the suspect this time; an answer that was kept is not paid for again",
    "wsr": "share of marked images that the suspect takes for the target class",
    "clean_rate": "share of the same images without the mark that it takes for the target class",
    "lift": "mean rise of the target's probability by the mark, -1 to 1",
    "control_lift": "the same by another generator's mark",
    "e_values_log10": "how many times a fortune grew that was bet against a hypothesis, as a power of ten; 1 / alpha or more"
    " refutes it",
    "p_value": "1 / the smallest e-value that is needed: chance of so much evidence against a model that does not react",
    "p_value_holm": "the same, corrected for the number of suspects",
    "rank_p_value": "chance that a model like the benign ones would rank as high under the same procedure",
    "rank_p_value_holm": "the same, corrected for the number of suspects",
    "rank_resolution": "the smallest rank p-value that so many benign models allow",
}


@dataclass
class Questioned:
    """One suspect after its questions.

    Attributes:
        suspect: who.
        answers: to the queries that decided, or to all; None if there were none.
        result: where questioning stands; None without answers.
        asked: images that it was asked about now.
        error: why it did not answer to the end, or None.
    """

    suspect: SuspectModel | UnopenedSuspect
    answers: Answers | None
    result: SequentialResult | None
    asked: int
    error: str | None

    @property
    def e_values(self) -> dict[str, float]:
        """log10 of the e-values at the decision."""
        return {name: float(path[-1]) for name, path in self.result.path.items()} if self.result else {}

    @property
    def p_value(self) -> float:
        """Of "no mark": the weakest of the three."""
        if not self.result:
            return 1.0
        return float(min(1.0, 10.0 ** -min(self.e_values[name] for name in EVIDENCE_FOR if name in self.e_values)))


def audit_targets(
    evidence_dir: str | Path,
    targets: list[str],
    out_dir: str | Path,
    *,
    contract: dict,
    connection: dict | None = None,
    registry: str | None = None,
    commitment: str | Path | None = None,
    public_key: str | Path | None = None,
    timestamp_roots: str | Path | None = None,
    files: dict[str, Path] | None = None,
) -> dict:
    """Opens suspects and audits them; see :func:`audit_suspects`.

    Args:
        evidence_dir: complete evidence.
        targets: as :func:`medmark.components.suspects.suspects.open_suspect` takes them.
        out_dir: gets ``audit.json`` and the suspects' answers.
        contract: keyword arguments of :class:`Contract`, the same for all suspects.
        connection: keyword arguments of :class:`Connection`.
        registry: URI of an MLflow registry; None: what MLflow is configured for.
        commitment: file of :func:`medmark.components.lineage.commitment.commit`; checked before anything is asked.
        public_key: PEM file of its signer.
        timestamp_roots: PEM file with the root certificates of the authority that stamped its time.
        files: ONNX files of targets that are no paths, by target.

    Raises:
        MedmarkError: one of commitment and key without the other, or what the check, the suspects or the audit raise. A
            suspect that gives no answer, or goes beyond its limits, raises nothing: its verdict is ``inconclusive``.
    """
    evidence = read_evidence(evidence_dir)
    if (commitment is None) != (public_key is None):
        raise MedmarkError("a commitment and its signer's public key go together; give both or none")
    if timestamp_roots is not None and commitment is None:
        raise MedmarkError("roots of a time stamp without a commitment; give the commitment that was stamped")
    committed = None
    if commitment is not None:
        committed = verify_commitment(
            commitment,
            load_public(public_key),
            release_digest=evidence["release_digest"],
            evidence_dir=evidence_dir,
            timestamp_roots=timestamp_roots,
        )
    class_names = evidence.get("class_names", [])
    agreed = Contract(**contract | ({"classes": tuple(contract["classes"])} if contract.get("classes") else {}))
    limits, suspects = Connection(**connection or {}), []
    for target in targets:
        file = (files or {}).get(target)
        options = {"class_names": class_names, "connection": limits, "registry": registry, "file": file}
        try:
            suspects.append(open_suspect(target, agreed, **options))
        except Unavailable as error:
            suspects.append(UnopenedSuspect(target, str(error), agreed))
    return audit_suspects(evidence_dir, suspects, out_dir, committed=committed)


def write_commitment_files(folder: str | Path, texts: dict[str, str]) -> dict[str, Path]:
    """Writes what travels through a pipeline as texts into files, as :func:`audit_targets` takes them.

    Args:
        folder: gets the files.
        texts: ``commitment`` (JSON) and ``public_key`` (PEM), and for a time stamp ``timestamp`` (base64) and
            ``timestamp_roots`` (PEM); may be empty.

    Returns:
        Keyword arguments of :func:`audit_targets`.

    Raises:
        MedmarkError: another name, or a time stamp that is not base64.
    """
    known = {name: Path(folder) / file for name, file in COMMITMENT_FILES.items()}
    if set(texts) - set(known):
        raise MedmarkError(
            f"unknown text of a commitment: {sorted(set(texts) - set(known))[0]!r}; use {', '.join(known)}"
        )
    for name, text in texts.items():
        try:
            data = base64.b64decode(text, validate=True) if name == "timestamp" else text.encode()
        except ValueError as error:
            raise MedmarkError(f"timestamp is not base64 ({error}); give the .tsr file encoded in base64") from error
        known[name].write_bytes(data)
    return {name: known[name] for name in texts if name != "timestamp"}  # that one is found beside the commitment


def audit_suspects(
    evidence_dir: str | Path,
    suspects: list[SuspectModel | UnopenedSuspect],
    out_dir: str | Path,
    *,
    committed: dict | None = None,
) -> dict:
    """Questions suspects and writes ``audit.json``.

    Args:
        evidence_dir: complete evidence, as a finished mark-release leaves it.
        suspects: see :func:`medmark.components.suspects.suspects.open_suspect`.
        out_dir: gets ``audit.json``, and ``answers.sqlite``: another run with it does not ask again what was answered.
        committed: what :func:`medmark.components.lineage.commitment.verify_commitment` found, or None.

    Returns:
        The content of ``audit.json``.

    Raises:
        MedmarkError: incomplete or damaged evidence, or a suspect that is named twice.
    """
    started = time.monotonic()
    evidence = read_evidence(evidence_dir)
    if "thresholds" not in evidence:
        raise MedmarkError(f"incomplete evidence: {evidence_dir}; use what a finished mark-release wrote")
    if not suspects or len({suspect.identity or suspect.name for suspect in suspects}) != len(suspects):
        raise MedmarkError(f"{len(suspects)} suspects, not all different; name each suspect once")
    thresholds = Thresholds(**evidence["thresholds"])
    target = evidence["class_names"].index(evidence["target_class"])
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    image_ids = query_ids(evidence_dir)
    benign_models = read_benign(evidence_dir, image_ids)
    questioned = []
    for suspect in suspects:
        if isinstance(suspect, UnopenedSuspect):
            questioned.append(Questioned(suspect, None, None, 0, suspect.error))
            continue

        def part(start: int, stop: int, size: int = suspect.size) -> QuerySet:
            return read_queries(evidence_dir, size=size, target=target, start=start, stop=stop)

        try:
            with StoredSuspect(suspect, out / STORE) as asked:
                q = question(asked, part, list(benign_models.values()), thresholds, among=len(suspects))
                questioned.append(replace(q, suspect=suspect))
        finally:
            suspect.close()
    audit = {
        "schema_version": AUDIT_SCHEMA_VERSION,
        "release_digest": evidence["release_digest"],
        "evidence_sha256": file_sha256(Path(evidence_dir) / "evidence.json"),
        "class_names": evidence["class_names"],
        "target_class": evidence["target_class"],
        "thresholds": evidence["thresholds"] | {"guilty": GUILTY},
        "innocent_models": {
            "count": len(benign_models),
            "max_lift": max(delta_p(answers) for answers in benign_models.values()),
            "lifts": {name: delta_p(answers) for name, answers in benign_models.items()},
        },
        "suspects": weigh(questioned, list(benign_models.values()), thresholds),
        "commitment": committed,
        "cautions": [
            committed["time_says"] if committed else UNCOMMITTED,
            "the verdict is about models: it does not say who trained them",
        ],
        "meanings": MEANINGS,
        "code_version": version("medmark"),
        "seconds": round(time.monotonic() - started, 1),
    }
    (out / "audit.json").write_bytes(canonical_json(audit))
    return audit


def question(
    suspect: StoredSuspect,
    part: Callable[[int, int], QuerySet],
    benign_models: list[Answers],
    thresholds: Thresholds,
    *,
    among: int,
) -> Questioned:
    """Asks until the answers decide, the queries are used up, or the suspect fails.

    Args:
        suspect: whose answers are kept.
        part: the queries from one number to another, at its input size: a suspect that wants huge images must not make us
            draw all of them at once.
        benign_models: benign models' answers to all queries.
        thresholds: of the evidence.
        among: suspects in this audit; questioning goes on until the evidence suffices for all of them together.
    """
    worst, count = (
        max(int((other.is_marked & ~other.is_clean).sum()) for other in benign_models),
        len(benign_models[0].is_clean),
    )
    null_rate = upper_rate(worst, count)
    stricter = replace(thresholds, alpha=thresholds.alpha / among)
    chunks, result, error = [], None, None
    for start in track(range(0, count, CHUNK), f"asking {suspect.name}"):
        queries = part(start, start + CHUNK)
        try:
            chunks.append(interrogate(suspect, queries))
        except MedmarkError as failure:
            error = str(failure)
            break
        result = sequential_test(join(chunks), null_rate=null_rate, thresholds=stricter)
        if result.state != "running":
            break
    answers = first(join(chunks), result.queries) if result else None
    return Questioned(suspect, answers, result, suspect.asked, error)


def delta_p(answers: Answers) -> float:
    """Mean rise of the target's probability by the mark."""
    return float((answers.p_marked - answers.p_clean).mean())


def weigh(questioned: list[Questioned], benign_models: list[Answers], thresholds: Thresholds) -> list[dict]:
    """A verdict for each suspect, corrected for their number."""
    decided = [q.error is None and q.answers is not None for q in questioned]
    stricter = replace(thresholds, alpha=thresholds.alpha / len(questioned))
    ranks = [
        rank_stopped(q.answers, alike(benign_models, q), thresholds=stricter)
        if whole
        else (1.0, 1 / (len(benign_models) + 1))
        for q, whole in zip(questioned, decided, strict=True)
    ]
    p_values, rank_p_values = holm([q.p_value for q in questioned]), holm([p for p, _ in ranks])
    return [
        verdict_of(q, rank, p, rank_p, benign_models, thresholds, among=len(questioned))
        for q, rank, p, rank_p in zip(questioned, ranks, p_values, rank_p_values, strict=True)
    ]


def holm(p_values: list[float]) -> list[float]:
    """Corrected for their number."""
    if len(p_values) == 1:
        return p_values  # multipletests collects garbage each time, which takes a quarter of a second
    return multipletests(p_values, method="holm")[1].tolist()


def alike(benign_models: list[Answers], q: Questioned) -> list[Answers]:
    """Benign models' answers of the suspect's kind: labels alone where it gives no more."""
    if not q.suspect.label_only:
        return benign_models
    return [
        replace(a, p_clean=a.is_clean.astype(float), p_marked=a.is_marked.astype(float), p_control=None)
        for a in benign_models
    ]


def verdict_of(
    q: Questioned,
    rank: tuple[float, float],
    p_value: float,
    rank_p_value: float,
    benign_models: list[Answers],
    thresholds: Thresholds,
    *,
    among: int,
) -> dict:
    """Weighs the proofs about one suspect; its entry in ``audit.json``."""
    proofs = {"passed": [], "failed": [], "missing": []}
    tau, alpha, level = thresholds.tau, thresholds.alpha, thresholds.conformal_alpha
    logs, needed = q.e_values, np.log10(among / alpha)
    control = None
    if q.error or not q.result:
        proofs["missing"].append(q.error or "no answers")
    elif q.result.state == "against":
        proofs["failed"].append(
            f"the mark raises the target's probability by less than {GUILTY:g}: e-value {e(logs['against'])}"
            f" (reached {e(needed)})"
        )
    else:
        for name in EVIDENCE_FOR:
            if name not in logs:
                proofs["missing"].append("no control mark in the evidence")
                continue
            holds = logs[name] >= needed or p_value <= alpha
            proofs["passed" if holds else "missing"].append(
                f"{CLAIMS[name].format(tau=tau)}: e-value {e(logs[name])} after {q.result.queries} images"
                f" (needs {e(needed)})"
            )
        if rank[0] > max(level, rank[1]):
            proofs["failed"].append(f"rank among benign models: p = {rank[0]:.2g} (needs <= {level:g})")
        elif rank_p_value > level:
            proofs["missing"].append(
                f"{len(benign_models)} benign models, {round(among / level) - 1} are needed to tell {among} suspects from"
                f" benign models at level {level:g}"
            )
        else:
            proofs["passed"].append(f"rank among benign models: p = {rank_p_value:.2g} (needs <= {level:g})")
        worst = max(delta_p(answers) for answers in alike(benign_models, q))
        if worst > tau:
            proofs["missing"].append(f"a benign model shows a delta-P of {worst:.2f}, beyond {tau:g}")
        if q.answers.p_control is not None:
            control = log_wealth(q.answers.p_control - q.answers.p_clean, tau)[-1] / np.log(10)
            proofs["failed" if control >= -np.log10(alpha) else "passed"].append(
                f"control mark: a delta-P beyond {tau:g} has the e-value {e(control)} (needs < {e(-np.log10(alpha))})"
            )
    verdict = "not_owned" if proofs["failed"] else "inconclusive" if proofs["missing"] else "owned"
    a, said = q.answers, q.suspect.contract
    return {
        "name": q.suspect.name,
        "identity": q.suspect.identity,
        "size": q.suspect.size,
        "label_only": q.suspect.label_only,
        "batch_size": q.suspect.batch_size,
        "contract": asdict(said) | {"classes": said.classes and list(said.classes)},
        "model": q.suspect.model,
        "description": q.suspect.description,
        "verdict": verdict,
        "queries": q.result.queries if q.result else 0,
        "asked": q.asked,
        "wsr": None if a is None else float(a.is_marked.mean()),
        "clean_rate": None if a is None else float(a.is_clean.mean()),
        "lift": None if a is None else delta_p(a),
        "control_lift": None if a is None or a.p_control is None else float((a.p_control - a.p_clean).mean()),
        "e_values_log10": logs | ({} if control is None else {"control": float(control)}),
        "p_value": q.p_value,
        "p_value_holm": p_value,
        "rank_p_value": rank[0],
        "rank_p_value_holm": rank_p_value,
        "rank_resolution": rank[1],
        **proofs,
        "would_change": would_change(verdict, proofs, q, len(benign_models), needed),
        "path_log10": {name: path.tolist() for name, path in q.result.path.items()} if q.result else {},
    }


def would_change(
    verdict: str, proofs: dict[str, list[str]], q: Questioned, benign_models: int, needed: float
) -> list[str]:
    """What would have led to another verdict, in sentences; ``needed`` is the log10 of the e-value that decides."""
    if verdict == "inconclusive":
        return [f"owned or not_owned once this is had: {missing}" for missing in proofs["missing"]]
    if verdict == "not_owned":
        if q.result.state == "against":
            return [
                f"further questions, if the mean delta-P over the images asked, {delta_p(q.answers):+.2f}, had not been clearly"
                f" below {GUILTY:g}; then every proof would have been needed"
            ]
        return [f"another verdict needs the opposite of this: {failed}" for failed in proofs["failed"]]
    weakest = min((name for name in EVIDENCE_FOR if name in q.e_values), key=lambda name: q.e_values[name])
    return [
        f"inconclusive, if the e-value of its weakest proof ({weakest}) had stayed below {e(needed)};"
        f" it reached {e(q.e_values[weakest])}",
        f"not_owned, if one of the {benign_models} benign models had reacted as strongly under the same procedure",
        "not_owned, if another generator's mark had set it off too",
    ]


def e(log10: float) -> str:
    """An e-value from its logarithm, short: 0.03, 12, 1,500, 10^23."""
    if log10 > 6:
        return f"10^{log10:.0f}"
    value = 10.0**log10
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
