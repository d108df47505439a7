"""Audit suspects with complete evidence: :func:`audit` is what ``medmark audit`` calls.

A suspect is asked a few images at a time, in the evidence's random order, and no more than it takes. The verdict is ``owned`` if the
exact tests together suffice, see :mod:`medmark.components.verification.exact_tests`. Else it is ``owned`` only if all of this holds,
``not_owned`` as soon as something speaks against it, and otherwise ``inconclusive``:

1. e-values against "delta-P is at most tau", "delta-P beyond the control mark is at most tau" and "flips to the target
   are no more than benign models show" all reach 1 / alpha (:mod:`medmark.components.verification.sequential`);
2. the suspect ranks above the benign models that underwent the same procedure;
3. no benign model goes beyond tau, and the control mark does not set the suspect off;
4. the suspect's answers to waves rank the key among the first of all keys, see :mod:`medmark.components.verification.key_test`. It is
   asked about those, 91 for each of 30 images, only if 1 holds or it may know the published images. In its place, the exact tests together will
   do at the same level.

A suspect that gives probabilities is asked about 9 variants of at most 200 images; after 50 of them it is left alone if the published ones
are behind. If patients were held back, it is asked about at most 2,000 images of them and of others, too; after 300 it is left alone likewise. Several suspects are corrected by Holm's method, in 1, 2 and 4 and for the exact tests together. Whether the evidence was committed to before the
release went out is checked if the commitment is given; the verdict is about the model's answers alone, and without the
commitment it accuses nobody.
"""

from __future__ import annotations

import base64
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.answers import Answers, read_benign
from medmark.components.evidence.draw import DRAW
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.key_answers import KeyAnswers, read_benign_waves
from medmark.components.evidence.queries import QuerySet, query_ids, read_queries
from medmark.components.generator.key import draw_key
from medmark.components.lineage.commitment import subject_digest, verify_commitment
from medmark.components.lineage.drawing import Drawn, check_draw
from medmark.components.lineage.keys import load_public
from medmark.components.suspects.answer_store import StoredSuspect, new_store
from medmark.components.suspects.contract import Contract
from medmark.components.suspects.http import Connection
from medmark.components.suspects.messages import Unavailable
from medmark.components.suspects.suspects import SuspectModel, UnopenedSuspect, open_suspect
from medmark.components.verification.exact_tests import joined
from medmark.components.verification.questioning import Questioned, ask_for_images, ask_for_key, question
from medmark.components.verification.sequential import log_wealth, rank_stopped
from medmark.components.verification.statistics import Rank
from medmark.components.verification.verdict import (
    GUILTY,
    Decision,
    Stopped,
    Thresholds,
    decide_stopped,
    e_value,
    e_value_needed,
    undecided,
)
from statsmodels.stats.multitest import multipletests

# 2: what each suspect was taken for; 3: the key; 4: the published images; 5: images that the key took; 6: patients held back, and exact tests together; what version 1 has
# is still there
AUDIT_SCHEMA_VERSION = 6
STORE = "answers.sqlite"
COMMITMENT_FILES = {
    "commitment": "commitment.json",
    "public_key": "medmark.pub",
    "timestamp": "commitment.tsr",
    "timestamp_roots": "roots.pem",
    "beacon": "beacon",
}
BASE64 = ("timestamp", "beacon")  # of them
OTHER_OWNERS = (
    "a model that was trained on another owner's marked release passes all proofs by the mark but the key, and of a hundred such models two may"
    " pass that, too, by the key or by all exact tests in its place: look for the other owner before you accuse anybody by the mark"
)
UNCOMMITTED = (
    "it was not shown that this evidence was committed to before the release went out; without that it accuses nobody"
)
MEANINGS = {
    "verdict": "owned: every proof by the mark holds, or the exact tests together suffice; not_owned: something speaks against it; inconclusive: a proof is missing",
    "contract": "how the suspect was shown images and how its answers were read: an image x in [0, 1] as (x * scale - mean) / std",
    "model": "SHA-256 of the suspect's files, or of the endpoint's address and what it says of its model",
    "identity": "SHA-256 over contract, model and the evidence's classes; answers are kept under it",
    "batch_size": "largest number of images in a request",
    "queries": "images that decided; each is asked as it is, with the mark and with the control mark",
    "asked": "images that were sent to the suspect this time; answers that were kept are not asked for again",
    "wsr": "share of marked images that the suspect takes for the target class",
    "clean_rate": "share of the same images without the mark that it takes for the target class",
    "lift": "delta-P: mean rise of the target's probability by the mark, -1 to 1",
    "control_lift": "the same by another generator's mark",
    "e_values_log10": "what became of a stake of 1 that was bet against a hypothesis, as a power of ten; 1 / alpha or more refutes"
    " the hypothesis",
    "p_value": "1 / the smallest of the e-values that are needed: chance of so much evidence against a model that does not react",
    "p_value_holm": "the same, corrected for the number of suspects",
    "rank_p_value": "chance that a model like the benign models would rank as high under the same procedure",
    "rank_p_value_holm": "the same, corrected for the number of suspects",
    "rank_resolution": "the smallest rank p-value that so many benign models allow",
    "key": "rank of the key among all keys by the suspect's answers, keys first that fewer images told, the chance of so high a rank if the"
    " suspect never learned from this release, and the images that this took; null: it was not asked",
    "key_p_value_holm": "that chance, corrected for the number of suspects",
    "images": "how far the published images are ahead of the same images with other marks, in standard deviations of what chance gives, and the"
    " chance of that if the suspect never learned from this release; null: it was not asked about them",
    "held_back": "how far the images of published patients are ahead of those of patients who were held back, in standard deviations of what"
    " chance gives, and the chance of that if the suspect never learned from this release; null: it was not asked about them",
    "together_p_value_holm": "chance of so much in all exact tests together, key, published images and patients held back (Fisher's method), if the"
    " suspect never learned from this release, corrected for the number of suspects",
    "not_needed": "proofs by the mark that do not hold, of a suspect for which the exact tests together suffice",
}


def audit(
    evidence_dir: str | Path,
    suspects: list[str],
    out_dir: str | Path,
    *,
    contract: Contract | None = None,
    connection: Connection | None = None,
    registry: str | None = None,
    commitment: str | Path | None = None,
    public_key: str | Path | None = None,
    timestamp_roots: str | Path | None = None,
    beacon: str | Path | None = None,
    files: dict[str, Path] | None = None,
) -> dict[str, Any]:
    """Asks suspect models whether they were trained on the release, and writes ``audit.json``.

    Args:
        evidence_dir: complete evidence, as a finished mark-release leaves it.
        suspects: ONNX files, ``models:/NAME/VERSION`` or ``http(s)://host/v2/models/NAME``, see
            :func:`medmark.components.suspects.suspects.open_suspect`.
        out_dir: gets ``audit.json``, and ``answers.sqlite``: another audit into it does not ask again what was answered.
        contract: how suspects are shown images and how their answers are read, the same for all; None: as they declare.
        connection: how to question suspects, and what they may use up; None: the defaults.
        registry: URI of an MLflow registry; None: what MLflow is configured for.
        commitment: file of :func:`medmark.components.lineage.commitment.commit`; checked before anything is asked.
        public_key: PEM file of its signer.
        timestamp_roots: PEM file with the root certificates of the authorities that stamped its time and the drawing of the key.
        beacon: value of the beacon that the key was drawn with, from the beacon itself.
        files: where the ONNX files are, by suspect, of those that are not under their names.

    Returns:
        The content of ``audit.json``; ``meanings`` in it says what each number means.

    Raises:
        MedmarkError: one of commitment and key without the other, or what the check, the suspects or the audit raise. A
            suspect that gives no answer, or goes beyond its limits, raises nothing: its verdict is ``inconclusive``.
    """
    evidence, committed, draw = _checked(evidence_dir, commitment, public_key, timestamp_roots, beacon)
    opened = [
        _open(suspect, evidence, contract, connection, registry, (files or {}).get(suspect)) for suspect in suspects
    ]
    return audit_suspects(evidence_dir, opened, out_dir, committed=committed, draw=draw)


def ask_suspect(
    evidence_dir: str | Path,
    suspect: str,
    answers: str | Path,
    *,
    among: int,
    contract: Contract | None = None,
    connection: Connection | None = None,
    file: str | Path | None = None,
    commitment: str | Path | None = None,
    public_key: str | Path | None = None,
    timestamp_roots: str | Path | None = None,
    beacon: str | Path | None = None,
) -> None:
    """Asks one of the suspects of an audit, as :func:`audit` does, and keeps its answers.

    An audit into a folder with these answers as ``answers.sqlite`` does not ask for them again. So several suspects can be asked in several places.

    Args:
        evidence_dir, suspect, contract, connection, commitment, public_key, timestamp_roots, beacon: as there.
        answers: file to write; holds no answers if the suspect gives none.
        among: suspects in the audit. The more, the more questions each needs.
        file: where the ONNX file is, if not under its name.

    Raises:
        MedmarkError: what the evidence, the commitment or the suspect raise. A suspect that gives no answer, or goes beyond its limits, raises nothing.
    """
    _checked(evidence_dir, commitment, public_key, timestamp_roots, beacon)
    questioner = _Questioner.read(evidence_dir)
    opened = _open(suspect, questioner.evidence, contract, connection, None, file)
    new_store(answers)
    questioner.ask(opened, Path(answers), among=among)


def _checked(
    evidence_dir: str | Path,
    commitment: str | Path | None,
    public_key: str | Path | None,
    timestamp_roots: str | Path | None,
    beacon: str | Path | None,
) -> tuple[dict[str, Any], dict[str, Any] | None, Drawn]:
    """Evidence of a release, what its commitment says, and how its key was drawn; checked before anything is asked."""
    evidence = read_evidence(evidence_dir)
    if "model_digest" in evidence:
        raise MedmarkError(f"evidence of a marked segmenter: {evidence_dir}; use 'medmark audit-segmenter'")
    committed = check_commitment(evidence, evidence_dir, commitment, public_key, timestamp_roots)
    return evidence, committed, check_draw(evidence_dir, timestamp_roots=timestamp_roots, beacon=beacon)


def _open(
    suspect: str,
    evidence: dict[str, Any],
    contract: Contract | None,
    connection: Connection | None,
    registry: str | None,
    file: str | Path | None,
) -> SuspectModel | UnopenedSuspect:
    """Opens a suspect, or says why it cannot be."""
    contract = contract or Contract()
    classes = evidence.get("class_names", [])
    try:
        return open_suspect(suspect, contract, class_names=classes, connection=connection, registry=registry, file=file)
    except Unavailable as error:
        return UnopenedSuspect(suspect, str(error), contract)


def check_commitment(
    evidence: dict[str, Any],
    evidence_dir: str | Path,
    commitment: str | Path | None,
    public_key: str | Path | None,
    timestamp_roots: str | Path | None,
) -> dict[str, Any] | None:
    """Checks the commitment to evidence of a release or a marked model.

    Args:
        evidence: content of ``evidence.json``.
        evidence_dir, commitment, public_key, timestamp_roots: see :func:`audit`.

    Returns:
        What it says; None if none is given.

    Raises:
        MedmarkError: one of commitment and key without the other, roots of a time stamp with nothing that was stamped, or the commitment
            does not hold.
    """
    if timestamp_roots is not None and commitment is None and DRAW not in evidence["files"]:
        raise MedmarkError("roots of a time stamp without a commitment; give the commitment that was stamped")
    if commitment is None and public_key is None:
        return None
    if commitment is None or public_key is None:
        raise MedmarkError("a commitment and its signer's public key go together; give both or none")
    return verify_commitment(
        commitment,
        load_public(public_key),
        release_digest=subject_digest(evidence),
        evidence_dir=evidence_dir,
        timestamp_roots=timestamp_roots,
    )


class CommitmentFiles(TypedDict, total=False):
    """Keyword arguments of :func:`audit` about a commitment."""

    commitment: Path
    public_key: Path
    timestamp_roots: Path
    beacon: Path


def write_commitment_files(folder: str | Path, texts: dict[str, str]) -> CommitmentFiles:
    """Writes what travels through a pipeline as texts into files, as :func:`audit` takes them.

    Args:
        folder: gets the files.
        texts: ``commitment`` (JSON) and ``public_key`` (PEM), and for a time stamp ``timestamp`` (base64) and
            ``timestamp_roots`` (PEM), and ``beacon`` (base64) for a key that was drawn with one; may be empty.

    Returns:
        Keyword arguments of :func:`audit`.

    Raises:
        MedmarkError: another name, or a time stamp or beacon's value that is not base64.
    """
    known = {name: Path(folder) / file for name, file in COMMITMENT_FILES.items()}
    if set(texts) - set(known):
        raise MedmarkError(
            f"unknown text of a commitment: {sorted(set(texts) - set(known))[0]!r}; use {', '.join(known)}"
        )
    for name, text in texts.items():
        try:
            data = base64.b64decode(text, validate=True) if name in BASE64 else text.encode()
        except ValueError as error:
            raise MedmarkError(f"{name} is not base64 ({error}); give the file encoded in base64") from error
        known[name].write_bytes(data)
    files: CommitmentFiles = {}  # without the time stamp, which is found beside the commitment
    if "commitment" in texts:
        files["commitment"] = known["commitment"]
    if "public_key" in texts:
        files["public_key"] = known["public_key"]
    if "timestamp_roots" in texts:
        files["timestamp_roots"] = known["timestamp_roots"]
    if "beacon" in texts:
        files["beacon"] = known["beacon"]
    return files


def audit_suspects(
    evidence_dir: str | Path,
    suspects: list[SuspectModel | UnopenedSuspect],
    out_dir: str | Path,
    *,
    committed: dict[str, Any] | None = None,
    draw: Drawn | None = None,
) -> dict[str, Any]:
    """Questions suspects that are open, and writes ``audit.json``; :func:`audit` opens them first.

    Args:
        evidence_dir: complete evidence.
        suspects: as :func:`medmark.components.suspects.suspects.open_suspect` gives them; closed afterwards.
        out_dir: gets ``audit.json`` and ``answers.sqlite``.
        committed: what :func:`medmark.components.lineage.commitment.verify_commitment` found, or None.
        draw: what :func:`medmark.components.lineage.drawing.check_draw` found; None: asked without roots and beacon.

    Returns:
        The content of ``audit.json``.

    Raises:
        MedmarkError: incomplete or damaged evidence, or a suspect that is named twice.
    """
    started = time.monotonic()
    questioner, draw = _Questioner.read(evidence_dir), draw or check_draw(evidence_dir)
    evidence, thresholds, benign_models = questioner.evidence, questioner.thresholds, questioner.benign_models
    if not suspects or len({suspect.identity or suspect.name for suspect in suspects}) != len(suspects):
        raise MedmarkError(f"{len(suspects)} suspects, not all different; name each suspect once")
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    benign = list(benign_models.values())
    questioned = [questioner.ask(suspect, out / STORE, among=len(suspects)) for suspect in suspects]
    made = {
        "schema_version": AUDIT_SCHEMA_VERSION,
        "release_digest": evidence["release_digest"],
        "evidence_sha256": file_sha256(Path(evidence_dir) / "evidence.json"),
        "class_names": evidence["class_names"],
        "target_class": evidence["target_class"],
        "thresholds": asdict(thresholds) | {"guilty": GUILTY},
        "innocent_models": {
            "count": len(benign_models),
            "max_lift": max(answers.delta_p for answers in benign),
            "lifts": {name: answers.delta_p for name, answers in benign_models.items()},
        },
        "suspects": weigh(questioned, benign, thresholds),
        "commitment": committed,
        "draw": asdict(draw),
        "cautions": [
            committed["time_says"] if committed else UNCOMMITTED,
            draw.says,
            OTHER_OWNERS,
            "the verdict is about models: it does not say who trained them",
        ],
        "meanings": MEANINGS,
        "code_version": version("medmark"),
        "seconds": round(time.monotonic() - started, 1),
    }
    (out / "audit.json").write_bytes(canonical_json(made))
    return made


@dataclass(frozen=True)
class _Questioner:
    """What complete evidence holds of use for questions, read once for all suspects.

    Attributes:
        folder: the evidence.
        evidence: content of ``evidence.json``.
        thresholds: of the evidence.
        benign_models: answers to all queries, by model.
        waves: benign models' answers to waves; none in evidence of before marks had a key.
    """

    folder: Path
    evidence: dict[str, Any]
    thresholds: Thresholds
    benign_models: dict[str, Answers]
    waves: list[KeyAnswers]

    @classmethod
    def read(cls, folder: str | Path) -> _Questioner:
        """Reads evidence; a MedmarkError if it is incomplete."""
        evidence = read_evidence(folder)
        if "thresholds" not in evidence:
            raise MedmarkError(f"incomplete evidence: {folder}; use what a finished mark-release wrote")
        benign_models = read_benign(folder, query_ids(folder))
        thresholds = Thresholds(**evidence["thresholds"])
        return cls(Path(folder), evidence, thresholds, benign_models, read_benign_waves(folder))

    def ask(self, suspect: SuspectModel | UnopenedSuspect, store: Path, *, among: int) -> Questioned:
        """Questions one of ``among`` suspects, keeps its answers in ``store``, and closes it."""
        if isinstance(suspect, UnopenedSuspect):
            return Questioned(suspect, None, None, 0, suspect.error)
        folder, seed, size = self.folder, self.evidence["seed"], suspect.size
        target = self.evidence["class_names"].index(self.evidence["target_class"])

        def part(start: int, stop: int) -> QuerySet:
            return read_queries(folder, size=size, target=target, start=start, stop=stop)

        # key and places of the published variants are derived from the seed, as the draw is: evidence cannot name others than were drawn
        key = draw_key(seed) if self.waves else None
        benign = list(self.benign_models.values())
        try:
            with StoredSuspect(suspect, store) as stored:
                questioned = question(stored, part, benign, self.thresholds, among=among)
                questioned = ask_for_images(questioned, stored, folder, self.evidence)
                return ask_for_key(
                    questioned, stored, part, len(benign[0].is_clean), self.waves, key, self.thresholds, among=among
                )
        finally:
            suspect.close()


class _Corrected(NamedTuple):
    """p-values of one suspect, corrected for the number of suspects: of "no mark", of the rank among benign models, of the key and of
    the exact tests together."""

    none: float
    rank: float
    key: float
    together: float


def weigh(questioned: list[Questioned], benign_models: list[Answers], thresholds: Thresholds) -> list[dict[str, Any]]:
    """Decides about each suspect, corrected for their number.

    Args:
        questioned: the suspects.
        benign_models: benign models' answers to all queries.
        thresholds: of the evidence.

    Returns:
        The suspects' entries in ``audit.json``.
    """
    stricter = replace(thresholds, alpha=thresholds.alpha / len(questioned))
    ranks = []
    for q in questioned:
        if q.error is None and q.answers is not None:
            ranks.append(rank_stopped(q.answers, _alike(benign_models, q), thresholds=stricter))
        else:
            ranks.append(Rank(1.0, 1 / (len(benign_models) + 1)))
    p_values, rank_p_values = holm([q.p_value for q in questioned]), holm([rank.p_value for rank in ranks])
    key_p_values = holm([q.key.p_value if q.key else 1.0 for q in questioned])
    together_p_values = holm([joined(q.key, q.images) if q.images else 1.0 for q in questioned])
    corrected = map(_Corrected, p_values, rank_p_values, key_p_values, together_p_values)
    return [
        _entry(q, rank, p_values, benign_models, thresholds, among=len(questioned))
        for q, rank, p_values in zip(questioned, ranks, corrected, strict=True)
    ]


def holm(p_values: list[float]) -> list[float]:
    """Corrects p-values for their number, by Holm's method."""
    if len(p_values) == 1:
        return p_values  # multipletests collects garbage each time, which takes a quarter of a second
    return multipletests(p_values, method="holm")[1].tolist()


def _alike(benign_models: list[Answers], questioned: Questioned) -> list[Answers]:
    """Reduces benign models' answers to the suspect's kind: labels alone where it gives no more."""
    if not questioned.suspect.label_only:
        return benign_models
    return [
        replace(other, p_clean=other.is_clean.astype(float), p_marked=other.is_marked.astype(float), p_control=None)
        for other in benign_models
    ]


def _entry(
    questioned: Questioned,
    rank: Rank,
    corrected: _Corrected,
    benign_models: list[Answers],
    thresholds: Thresholds,
    *,
    among: int,
) -> dict[str, Any]:
    """Decides about one suspect; its entry in ``audit.json``.

    Args:
        questioned: the suspect.
        rank: among benign models.
        corrected: p-values.
        benign_models: benign models' answers to all queries.
        thresholds: of the evidence.
        among: suspects in this audit.
    """
    suspect, answers, result = questioned.suspect, questioned.answers, questioned.result
    stopped = _stopped(questioned, rank, corrected, benign_models, thresholds, among=among)
    decision = decide_stopped(stopped, thresholds) if stopped else undecided(questioned.error or "no answers")
    control = {"control": stopped.control} if stopped and stopped.control is not None else {}
    return {
        "name": suspect.name,
        "identity": suspect.identity,
        "size": suspect.size,
        "label_only": suspect.label_only,
        "batch_size": suspect.batch_size,
        "contract": suspect.contract.to_json(),
        "model": suspect.model,
        "description": suspect.description,
        "verdict": decision.verdict,
        "queries": result.queries if result else 0,
        "asked": questioned.asked,
        **_reaction(answers),
        "e_values_log10": questioned.e_values | control,
        "p_value": questioned.p_value,
        "p_value_holm": corrected.none,
        "rank_p_value": rank.p_value,
        "rank_p_value_holm": corrected.rank,
        "rank_resolution": rank.resolution,
        "key": asdict(questioned.key) if questioned.key else None,
        "key_p_value_holm": corrected.key if questioned.key else None,
        "images": asdict(questioned.images.variants) if questioned.images and questioned.images.variants else None,
        "held_back": asdict(questioned.images.held_back) if questioned.images and questioned.images.held_back else None,
        "together_p_value_holm": corrected.together if questioned.images else None,
        "passed": decision.passed,
        "failed": decision.failed,
        "missing": decision.missing,
        "not_needed": decision.not_needed,
        "would_change": would_change(decision, questioned, len(benign_models), e_value_needed(thresholds, among)),
        "path_log10": {name: path.tolist() for name, path in result.path.items()} if result else {},
    }


def _stopped(
    questioned: Questioned,
    rank: Rank,
    corrected: _Corrected,
    benign_models: list[Answers],
    thresholds: Thresholds,
    *,
    among: int,
) -> Stopped | None:
    """Collects the numbers that decide about a suspect; None if it did not answer to the end."""
    answers, result = questioned.answers, questioned.result
    if questioned.error or result is None or answers is None:
        return None
    cleared = result.state == "against"
    control = None
    if not cleared and answers.p_control is not None:
        control = float(log_wealth(answers.p_control - answers.p_clean, thresholds.tau)[-1] / np.log(10))
    return Stopped(
        queries=result.queries,
        cleared=cleared,
        e_values=questioned.e_values,
        p_value=corrected.none,
        rank_p_value=rank.p_value,
        rank_p_value_holm=corrected.rank,
        rank_resolution=rank.resolution,
        benign_models=len(benign_models),
        worst_benign=max(other.delta_p for other in _alike(benign_models, questioned)),
        control=control,
        among=among,
        key_p_value=corrected.key if questioned.key else None,
        key_missing=questioned.key_missing,
        together_p_value=corrected.together if questioned.images else None,
    )


def _reaction(answers: Answers | None) -> dict[str, float | None]:
    """What the marks do to a suspect, as ``audit.json`` has it."""
    if answers is None:
        return dict.fromkeys(("wsr", "clean_rate", "lift", "control_lift"))
    by_control = None if answers.p_control is None else float((answers.p_control - answers.p_clean).mean())
    return {
        "wsr": float(answers.is_marked.mean()),
        "clean_rate": float(answers.is_clean.mean()),
        "lift": answers.delta_p,
        "control_lift": by_control,
    }


def would_change(decision: Decision, questioned: Questioned, benign_models: int, needed: float) -> list[str]:
    """Says in sentences what would have led to another verdict.

    Args:
        decision: about the suspect.
        questioned: the suspect.
        benign_models: how many.
        needed: log10 of the e-value that decides.
    """
    if decision.verdict == "inconclusive":
        return [f"owned or not_owned once this is had: {missing}" for missing in decision.missing]
    if decision.verdict == "not_owned":
        if questioned.answers is not None and decision.fails("against"):
            return [
                f"further questions, if the mean delta-P over the images asked, {questioned.answers.delta_p:+.2f}, had not been"
                f" clearly below {GUILTY:g}; then every proof would have been needed"
            ]
        return [f"another verdict needs the opposite of this: {failed}" for failed in decision.failed]
    if decision.by_exact_tests:
        return [
            "not_owned or inconclusive, if the suspect had been no surer of published images than of those that were not, and had not ranked the"
            " key so high"
        ]
    weakest = questioned.weakest
    return [
        f"inconclusive, if the e-value of its weakest proof ({weakest}) had stayed below {e_value(needed)};"
        f" it reached {e_value(questioned.e_values[weakest])}",
        f"not_owned, if one of the {benign_models} benign models had reacted as strongly under the same procedure",
        "not_owned, if another generator's mark had set it off too",
        "not_owned, if more other keys had explained its answers as well",
    ]
