"""``medmark run lock-release`` as it comes: the lock, its check, and what owners, recipients and auditors do with it."""

import json
import os
import re
import stat
import subprocess

import numpy as np
import pytest
from medmark.components.dataset.release import Release
from medmark.components.evidence.secrets import draw_secrets, read_secrets
from medmark.components.lineage.events import read_record, read_steps
from medmark.components.locking.seal import release_key

PASSPHRASE = "a passphrase for tests"
SEED = 0


@pytest.fixture(autouse=True)
def passphrase(monkeypatch):
    monkeypatch.setenv("MEDMARK_KEY_PASSPHRASE", PASSPHRASE)


@pytest.fixture(scope="module")
def run(warm_installed, tmp_path_factory):
    """The smoke run on phantoms: its folder, exit code, what the terminal shows, and a folder with keys."""
    folder = tmp_path_factory.mktemp("lock")
    environment = {"MEDMARK_KEY_PASSPHRASE": PASSPHRASE}
    for name in ("owner", "clinic"):
        warm_installed("keys", "new", "--locking", "--out", folder / name, env=environment, check=True)
    command = ["run", "lock-release", "--profile", "smoke", "--seed", SEED, "--out", folder / "out"]
    for name in ("owner", "clinic"):
        command += ["--recipient", f"{name}={folder / name / 'locking.pub'}"]
    done = warm_installed(*command, env=environment)
    return folder / "out", done.returncode, done.stdout + done.stderr, folder


def test_the_smoke_run_locks_and_harms_nobody(run):
    out, code, shown, _ = run
    verdict = json.loads((out / "verdict.json").read_bytes())
    assert code == {"locked": 0, "weak": 3}[verdict["verdict"]], shown
    assert verdict["lesions"]["covered_pixels"] == 0
    assert verdict["lesions"]["from"] == {"mask": verdict["dataset"]["images"]}
    assert verdict["lesions"]["segmenter"]["boxed"] > 0.5  # nobody needed it here
    assert verdict["elsewhere"]["changed_pixels"] == 0
    unlocked = verdict["unlocked"]
    assert unlocked["exact"] == unlocked["images"] == verdict["dataset"]["images"] and unlocked["tampered"] == 1000
    assert unlocked["accepted"] == 0
    for kind in (
        "white_box",
        "black_box",
    ):  # where the logo is makes a difference, most to those that it was searched for
        assert verdict["accuracy"][kind]["locked"] < verdict["accuracy"][kind]["random_place"]
    assert verdict["accuracy"]["white_box"]["locked"] < verdict["accuracy"]["white_box"]["random_place"] - 0.2
    assert 0 < verdict["cover"]["mean"] <= verdict["cover"]["largest"] < 0.2
    assert verdict["segmenter"]["clean"] > 0.5
    for said in ("verdict", "white-box accuracy", "tampered inputs", "report:"):
        assert said in shown
    assert sorted(os.listdir(out)) == sorted(
        ["evidence", "mlartifacts", "mlflow.db", "record.json", "release", "report.html", "verdict.json"]
    )


def test_attacks_are_told_with_what_they_give_back(run):
    rows = json.loads((run[0] / "verdict.json").read_bytes())["attacks"]
    kinds = {row["attack"] for row in rows}
    assert {"undoing with the certificate", "histogram equalisation"} < kinds
    for name in ("JPEG", "resizing", "cropping", "blur", "inpainting", "fine-tuning", "removal network"):
        assert any(kind.startswith(name) for kind in kinds), name
    shares = [row[shown][kind] for row in rows for shown in ("locked", "clean") if shown in row for kind in row[shown]]
    assert np.isfinite(shares).all() and min(shares) >= 0 and max(shares) <= 1
    # the logo covers no lesion, so whoever takes it off sees all of them again
    (undone,) = [row for row in rows if row["attack"].startswith("undoing")]
    assert undone["locked"]["white_box"] > 0.8


def test_nobody_finds_the_key_in_what_the_run_leaves(run, tmp_path):
    out = run[0]
    draw_secrets(tmp_path / "secrets", SEED)
    clean = read_steps(out / "evidence")["events"]
    mark_key = read_secrets(tmp_path / "secrets").mark_key
    opened = json.loads((out / "verdict.json").read_bytes())["clean_digest"]
    keys = [
        mark_key.encode(),
        bytes.fromhex(mark_key),
        release_key(mark_key, opened),
        release_key(mark_key, opened).hex().encode(),
    ]
    files = [path for path in out.rglob("*") if path.is_file()]
    assert not [path for path in files for key in keys if key in path.read_bytes()]
    assert {event["job"]["name"] for event in clean} == {
        "draw secrets", "ingest", "train classifiers", "train lesion segmenter", "lock", "check locks",
    }  # fmt: skip
    public = [out / "release", *(out / "release").rglob("*"), out / "record.json"]
    for path in [out, *out.rglob("*")]:
        folder, file = (0o755, 0o644) if path in public else (0o700, 0o600)
        assert stat.S_IMODE(path.lstat().st_mode) == (folder if path.is_dir() else file), path


def test_the_locked_release_goes_the_way_of_any_other(run, medmark, tmp_path):
    out, _, _, folder = run
    locked, evidence = Release(out / "release"), out / "evidence"
    locked.verify()
    record = read_record(out / "record.json")
    assert record["release_digest"] == locked.digest and record["parent_digest"] == locked.parent
    code, _, err = medmark(
        "unlock", out / "release", evidence, "--key", folder / "clinic" / "locking.key", "--out", tmp_path / "u"
    )
    assert code == 0, err
    assert len(Release(tmp_path / "u")) == len(locked)
    assert medmark("export", out / "release", "--out", tmp_path / "files")[0] == 0
    assert medmark("keys", "new", "--out", tmp_path / "keys")[0] == 0
    subprocess.run(["cp", "-r", str(out / "release"), str(out / "evidence"), str(tmp_path)], check=True)
    key, pub = ("--key", tmp_path / "keys" / "medmark.key"), ("--public-key", tmp_path / "keys" / "medmark.pub")
    release, private = tmp_path / "release", tmp_path / "evidence"
    assert medmark("certificate", "sign", release, private, *key)[0] == 0
    code, _, err = medmark("lineage", "sign", release, "--record", out / "record.json", *key)
    assert code == 0, err
    code, said, err = medmark("lineage", "verify", release, *pub)
    assert code == 0, said + err


def test_mlflow_has_the_run_but_nothing_secret(run):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run[0] / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("medmark").experiment_id])
    (parent,) = [one for one in found if "mlflow.parentRunId" not in one.data.tags]
    verdict = json.loads((run[0] / "verdict.json").read_bytes())
    assert parent.info.run_name == "lock-release" and parent.data.params["verdict"] == verdict["verdict"]
    assert parent.data.metrics["white_box"] == verdict["accuracy"]["white_box"]["locked"]
    assert {one.info.run_name for one in found} >= {"models", "unseen"}


def test_the_report_loads_nothing_and_shows_the_images(run):
    page = (run[0] / "report.html").read_text()
    assert "default-src 'none'" in page and 'src="http' not in page
    assert page.count("unlocked with the key") >= 6 and "What adversaries get back" in page
    assert not re.search(r"(?<![\w.])(nan|None)(?!\w)", re.sub(r'src="[^"]*"', "", page))


def test_options_that_cannot_be_used_are_refused_before_anything_is_trained(run, medmark, tmp_path):
    out = ("--out", tmp_path / "x")
    own = ("--recipient", f"owner={run[3] / 'owner' / 'locking.pub'}")
    code, _, err = medmark("run", "lock-release", *own, *out, "--text", "")
    assert code == 1 and "text for a logo" in err
    code, _, err = medmark("run", "lock-release", "--recipient", f"owner={run[3] / 'owner' / 'locking.key'}", *out)
    assert code == 1 and err.count("\n") == 1
    code, _, err = medmark("run", "lock-release", *own, *out, "--logo", run[0] / "verdict.json")
    assert code == 1 and "no logo" in err
    code, _, err = medmark("run", "lock-release", *own, *out, "--set", "architectures=alexnet")
    assert code == 1 and "unknown architecture: 'alexnet'" in err
    code, _, err = medmark("run", "lock-release", *own, *out, "--set", "scales=0.2,big")
    assert code == 1 and "scales='0.2,big'" in err
    assert not (tmp_path / "x").exists()
