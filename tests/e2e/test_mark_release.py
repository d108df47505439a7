"""``medmark run mark-release`` through kfp.local: every step in a process of its own."""

import json
import re
import stat
from pathlib import Path

from medmark.components.dataset.origin import read_patient_key
from medmark.components.dataset.release import Release
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.secrets import seeds_of
from public_bytes import clues, leaks, public_bytes

STEPS = {
    "ingest", "surrogates", "benign_models", "saliency", "generator", "control_generator", "poison", "marked_models", "verify",
    "report", "total", "prepare", "prepare_release",
}  # fmt: skip


def test_a_failed_run_says_which_step_and_publishes_nothing(runs):
    _, codes, left, shown = runs
    assert codes[0] == 1
    assert left[0] == ["work"]
    # the two generators wait for nothing of each other: either may be the first to meet the cause
    assert re.match(r"medmark: step train (control )?generator failed: marked_share 0.9 asks for", shown[0][-1])


def test_the_second_run_goes_on_where_the_first_stopped(runs):
    _, codes, left, shown = runs
    assert codes[1] == 3  # not owned: nothing can be learnt in one epoch
    assert left[1] == sorted(
        ["evidence", "keep", "mlartifacts", "mlflow.db", "record.json", "release", "report.html", "verdict.json"]
    )
    for step in ("step ingest", "step prepare", "step train surrogates", "step gather surrogates"):
        assert step in shown[0] and step not in shown[1]
    assert "step report" in shown[1]


def test_release_is_public_and_evidence_is_private(runs):
    out = runs[0]
    Release(out / "release").verify()
    assert stat.S_IMODE((out / "evidence").stat().st_mode) == 0o700
    assert read_evidence(out / "evidence")["release_digest"] == Release(out / "release").digest
    published = b"".join(p.read_bytes() for p in (out / "release").rglob("*") if p.is_file())
    ledger = (out / "evidence" / "evidence.json").read_bytes()
    assert b"marked_images" in ledger and b"marked_images" not in published and b"evidence" not in published


def test_only_release_and_record_may_be_read_by_others(runs):
    """The run had no umask."""
    out = runs[0]
    public = {out / "record.json", out / "release", *(out / "release").rglob("*")}
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in [out, *out.rglob("*")]}
    for path, mode in modes.items():
        folder, file = (0o755, 0o644) if path in public else (0o700, 0o600)
        assert mode == (folder if path.is_dir() else file), path


def test_no_name_is_public(runs, source):
    """Neither in the release nor in its record, nor where a team looks at runs."""
    out = runs[0]
    names = [path.relative_to(source).as_posix() for path in source.rglob("*.png")]
    secrets = clues(names) | {Path(name).stem.split("_")[0] for name in names} | {"Lindqvist", "mrn88", str(source)}
    public = public_bytes(
        *(out / name for name in ("release", "record.json", "report.html", "mlflow.db", "mlartifacts"))
    )
    assert b"pneumonia" in public
    assert leaks(public, secrets - {"normal", "pneumonia"}) == []


def test_verdict_has_every_field(runs, tiny):
    verdict = json.loads((runs[0] / "verdict.json").read_bytes())
    assert verdict["malicious"].keys() >= {
        "wsr", "delta_p", "delta_p_ci95", "t_p_value", "wilcoxon_p_value", "label_only_p_value", "conformal_p_value",
        "queries",
    }  # fmt: skip
    assert verdict["independent_models"].keys() >= {"count", "accused", "max_delta_p"}
    assert verdict["independent_trigger"].keys() >= {"accused", "delta_p"}
    assert verdict["accuracy"].keys() >= {"benign", "marked"}
    assert verdict["quality"].keys() >= {"psnr", "ssim", "haarpsi", "lpips"}
    assert verdict["quality"]["lpips"] is not None or verdict["quality"]["lpips_reason"]
    assert 0 < verdict["marked_fraction"] < 0.2
    secrets = [*seeds_of(tiny.seed).values(), tiny.seed, read_patient_key(runs[0] / "keep")]
    shown = b"".join(
        (runs[0] / name).read_bytes() for name in ("verdict.json", "report.html", "record.json", "mlflow.db")
    )
    assert not [secret for secret in secrets if str(secret).encode() in shown]  # they lie in evidence and keep alone
    assert seeds_of(tiny.seed)["seed"] == read_evidence(runs[0] / "evidence")["seed"]
    assert verdict["release_digest"] == Release(runs[0] / "release").digest
    assert set(verdict["seconds"]) == STEPS


def test_mlflow_has_the_run_its_steps_and_the_data(runs):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{runs[0] / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("medmark").experiment_id])
    (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(found) - 1 == 8
    assert parent.data.params["generator_steps"] == "2"
    assert {run.info.run_name for run in children} == STEPS - {
        *("prepare", "prepare_release", "saliency", "report", "total")
    }
    (checked,) = [run for run in children if run.info.run_name == "verify"]
    assert len(client.list_artifacts(checked.info.run_id, "figures")) == 2
    digests = {i.dataset.digest for run in found for i in run.inputs.dataset_inputs}
    assert Release(runs[0] / "release").digest[:36] in digests
