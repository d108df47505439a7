"""``medmark run update-release``: killed in every step, and then finished with the same command."""

import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from kfp import dsl
from medmark.components.base.private_files import LOCK
from medmark.components.dataset.drop import read_drop
from medmark.components.dataset.origin import read_patient_key
from medmark.components.dataset.phantoms import make_phantoms
from medmark.components.dataset.pseudonyms import image_id
from medmark.components.dataset.release import Release
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.keep import read_keep
from medmark.components.lineage.events import check_record, read_record, read_steps
from medmark.components.poisoning.update import update
from medmark.pipelines import cli, local_run
from medmark.pipelines.update_release import run as run_module
from PIL import Image

STEPS = {"read the drop": "read-drop-component", "mark what is new": "update-component",
         "check the mark": "check-update-component"}  # fmt: skip
PARTS = ("release", "evidence", "keep")
MEDMARK = [sys.executable, "-c", "from medmark.pipelines.cli import main; main()"]


def medmark(*arguments) -> tuple[int, str, str]:
    """Exit code, output and error output of the command, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
            patch.delenv(variable, raising=False)
        patch.setattr(sys, "argv", ["medmark", *map(str, arguments)])
        patch.setattr(sys, "stdout", io.StringIO())
        patch.setattr(sys, "stderr", io.StringIO())
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, sys.stdout.getvalue(), sys.stderr.getvalue()


def kill_in(component: str, command: list, out) -> None:
    """Starts the command and kills all its processes as soon as a step has begun to write."""
    with subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            end = time.monotonic() + 120
            while not any(p.is_file() for p in (out / "work" / "steps").glob(f"*/{component}/**/*")):
                assert process.poll() is None, f"the run ended before {component} wrote anything"
                assert time.monotonic() < end
                time.sleep(0.002)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def drop(runs, source, tmp_path_factory):
    """Twenty new images, one with a box over its corner, a marked one with another's pixels, two withdrawn."""
    folder = tmp_path_factory.mktemp("update") / "drop"
    make_phantoms(folder.with_name("more"), count=20, size=64, seed=9)
    for path in sorted(folder.with_name("more").rglob("*.png")):
        target = folder / path.parent.name / f"x{path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    roles = json.loads((runs[0] / "evidence" / "generator" / "selection.json").read_bytes())
    key = read_patient_key(runs[0] / "keep")
    names = {image_id(p.relative_to(source).as_posix(), key): p for p in sorted(source.rglob("*.png"))}
    training = {r.image_id for r in Release(runs[0] / "release").records("train", columns=["image_id", "split"])}
    plain = sorted(training - roles.keys())
    marked = sorted(i for i in roles if roles[i] == "mark")
    made = SimpleNamespace(
        folder=folder, corrected=plain[0], withheld=marked[0], withdrawn=sorted([plain[1], marked[1]])
    )
    covered, replaced = (folder / names[name].relative_to(source) for name in (made.corrected, made.withheld))
    image = Image.open(names[made.corrected])
    image.paste(0, (0, 0, 16, 8))
    image.save(covered)
    Image.open(names[made.withheld]).transpose(Image.Transpose.ROTATE_90).save(replaced)
    rows = "".join(f"{names[name].relative_to(source).as_posix()}\n" for name in made.withdrawn)
    (folder / "withdrawn.csv").write_text(f"path\n{rows}")
    return made


@pytest.fixture(scope="module")
def updated(runs, drop):
    """Killed in each step, then while the result is copied, then finished: folder, and end of the last two."""
    out = drop.folder.with_name("out")
    command = ["run", "update-release", str(runs[0]), "--data", str(drop.folder), "--out", str(out)]
    for component in STEPS.values():
        kill_in(component, [*MEDMARK, *command], out)
        assert sorted(os.listdir(out)) == [LOCK, "work"] and stat.S_IMODE((out / "work").stat().st_mode) == 0o700
    copy = shutil.copytree

    def stops(source, target, *others, **options):
        if target == out / "keep":
            raise OSError("cut off")
        return copy(source, target, *others, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_run.shutil, "copytree", stops)
        stopped = medmark(*command)
    left = sorted(os.listdir(out))
    return SimpleNamespace(out=out, stopped=stopped, left=left, end=medmark(*command))


def test_the_same_command_goes_on_where_it_was_killed(updated):
    assert updated.stopped[0] == 1 and "cut off" in updated.stopped[2]
    assert updated.left == ["evidence", "release", "work"]
    assert sorted(os.listdir(updated.out)) == [
        "evidence", "keep", "mlartifacts", "mlflow.db", "record.json", "release", "verdict.json"
    ]  # fmt: skip
    # read and marked before the last kill: not again
    assert "step read the drop" not in updated.stopped[2] and "step mark what is new" not in updated.stopped[2]
    assert "step check the mark" in updated.stopped[2] and not any(f"step {step}" in updated.end[2] for step in STEPS)
    public = {updated.out / "record.json", updated.out / "release", *(updated.out / "release").rglob("*")}
    for path in [updated.out, *updated.out.rglob("*")]:
        folder, file = (0o755, 0o644) if path in public else (0o700, 0o600)
        assert stat.S_IMODE(path.lstat().st_mode) == (folder if path.is_dir() else file), path


def test_the_release_is_that_of_a_run_that_nobody_killed(runs, drop, updated, tmp_path):
    read_drop(drop.folder, runs[0] / "release", runs[0] / "keep", tmp_path / "drop")
    before, after = ([folder / name for name in PARTS] for folder in (runs[0], tmp_path))
    change = update(*before, tmp_path / "drop", *after, version="2")
    release = Release(updated.out / "release")
    release.verify()
    assert release.digest == change["release_digest"]
    assert (change["added"], change["replaced"], change["withdrawn"], change["withheld"]) == (20, 1, 3, 1)
    changes = release.read_changes()
    assert changes["changed"] == [drop.corrected]
    assert changes["withdrawn"] == changes["tombstones"] == sorted([*drop.withdrawn, drop.withheld])
    assert release.parent == Release(runs[0] / "release").digest and release.version == "2"


def test_a_mark_that_does_not_work_is_said(updated):
    """After one epoch no model has learnt anything."""
    code, shown, _ = updated.end
    assert code == 3 and "20 added, 1 changed, 3 withdrawn" in shown and str(updated.out / "release") in shown
    verdict = json.loads((updated.out / "verdict.json").read_bytes())
    assert verdict["verdict"] != "owned" and f"verdict: {verdict['verdict']}" in shown
    assert verdict["reasons"] and all(reason in shown for reason in verdict["reasons"])
    assert verdict["model"]["queries"] == read_evidence(updated.out / "evidence")["queries"]
    assert verdict["release_digest"] == Release(updated.out / "release").digest
    assert verdict["change"]["changed"] == 24 and set(verdict["seconds"]) == {"check", "total"}


def test_the_record_is_that_of_the_private_steps(runs, updated):
    record, steps = read_record(updated.out / "record.json"), read_steps(updated.out / "evidence")
    check_record(record, steps)
    assert [step["name"] for step in record["steps"]] == ["read drop", "mark drop", "check"]
    assert record["parent_digest"] == Release(runs[0] / "release").digest
    changes = Release(updated.out / "release").read_changes()
    assert record["drop"] == {"digest": changes["drop"], "files": 23}
    assert "steps.json" in read_evidence(updated.out / "evidence")["files"]
    assert read_keep(updated.out / "keep")["release_digest"] == record["release_digest"]
    # one step's output is known again as the next one's input
    made = {json.dumps(d) for step in record["steps"][:2] for d in step["outputs"].values()}
    assert made >= {json.dumps(d) for port, d in record["steps"][2]["inputs"].items() if port in ("marked", "evidence")}


def test_withdrawn_images_are_gone_from_every_file(runs, drop, updated):
    before = {r.image_id: r for r in Release(runs[0] / "release").records()}
    gone = [*drop.withdrawn, drop.withheld]
    secrets = [text for i in gone for text in (i.encode(), before[i].sha256.encode(), before[i].image)]
    for path in sorted(p for p in updated.out.rglob("*") if p.is_file() and p.name != "changes.json"):
        content = path.read_bytes()
        if path.suffix == ".parquet":
            rows = pq.read_table(path).to_pylist()
            content = b"".join(v if isinstance(v, bytes) else repr(v).encode() for row in rows for v in row.values())
        assert not [secret[:40] for secret in secrets if secret in content], path


def test_the_key_of_the_pseudonyms_is_only_in_keep(updated):
    key = json.loads((updated.out / "keep" / "patients.json").read_bytes())["key"].encode()
    holders = [p for p in updated.out.rglob("*") if p.is_file() and key in p.read_bytes()]
    assert holders == [updated.out / "keep" / "patients.json"]


def test_the_steps_do_not_tell_the_key(source, tmp_path):
    """They become part of the evidence, which auditors get."""
    from medmark.components.dataset.component import ingest_component

    release, origins = (
        kind(name=name, uri=str(tmp_path / name), metadata={})
        for kind, name in ((dsl.Dataset, "clean"), (dsl.Artifact, "origins"))
    )
    ingest_component.python_func(
        source=str(source), source_state="", options={"patient_key": "c0ffee" * 8}, release=release, origins=origins
    )
    assert "c0ffee" not in json.dumps([release.metadata, origins.metadata])
    assert "c0ffee" in (tmp_path / "origins" / "patients.json").read_text()


def test_nothing_changed(source, drop, updated, tmp_path):
    """The whole source again, but for what was withdrawn: exit code 0, and nothing is written."""
    whole = tmp_path / "whole"
    shutil.copytree(source, whole)
    shutil.copytree(drop.folder, whole, dirs_exist_ok=True)
    key = read_patient_key(updated.out / "keep")
    names = {image_id(p.relative_to(whole).as_posix(), key): p for p in whole.rglob("*.png")}
    for gone in (*drop.withdrawn, drop.withheld):
        names[gone].unlink()
    code, shown, _ = medmark("run", "update-release", updated.out, "--data", whole, "--out", tmp_path / "three")
    assert (code, shown) == (0, "nothing changed, nothing to publish\n")
    (whole / "normal" / "broken.png").write_bytes(b"no image")
    command = ["run", "update-release", updated.out, "--data", whole, "--out", tmp_path / "three", "--quarantine"]
    code, shown, _ = medmark(*command)
    assert code == 0 and "nothing to publish; images set aside: 1, run without --quarantine to see why" in shown
    assert not (tmp_path / "three").exists()


def test_the_evidence_serves_commit_and_audit(updated, tmp_path, monkeypatch):
    import onnx

    graph = onnx.parser.parse_graph(
        "suspect (float[N, 1, 64, 64] image) => (float[N, 2] answers) <float[1, 1, 1, 1] one = {1}> {"
        " mean = GlobalAveragePool(image)  rest = Sub(one, mean)  both = Concat<axis = 1>(mean, rest)"
        " answers = Flatten(both) }"
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "suspect.onnx")
    monkeypatch.setenv("MEDMARK_KEY_PASSPHRASE", "correct horse battery")
    evidence = tmp_path / "evidence"
    shutil.copytree(updated.out / "evidence", evidence)
    assert medmark("keys", "new", "--out", tmp_path / "keys")[0] == 0
    files = ["--key", tmp_path / "keys" / "medmark.key", "--out", tmp_path / "commitment.json"]
    assert medmark("commit", updated.out / "release", evidence, *files)[0] == 0
    signed = ["--commitment", tmp_path / "commitment.json", "--public-key", tmp_path / "keys" / "medmark.pub"]
    command = ["audit", evidence, "--suspect", tmp_path / "suspect.onnx", "--out", tmp_path / "audit", *signed]
    code, shown, said = medmark(*command)
    assert code in (0, 3), said
    (suspect,) = json.loads((tmp_path / "audit" / "audit.json").read_bytes())["suspects"]
    assert suspect["verdict"] in ("not_owned", "inconclusive") and suspect["verdict"] in shown


# refusals, before any step runs


@pytest.fixture
def copy(runs, tmp_path):
    for name in PARTS:
        shutil.copytree(runs[0] / name, tmp_path / "run" / name)
    return tmp_path / "run"


def _cut(path):
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: _cut(run / "keep" / "sources.parquet"), "changed or missing: .*sources.parquet.*backup"),
        (lambda run: _cut(run / "keep" / "keep.json"), "no readable keep.json.*backup"),
        (lambda run: shutil.rmtree(run / "keep"), "no readable keep.json"),
        (lambda run: _cut(run / "evidence" / "ledger.parquet"), "evidence changed or missing.*backup"),
        (lambda run: _cut(run / "evidence" / "evidence.json"), "no readable evidence"),
        (lambda run: (run / "release" / "release.json").unlink(), "not a complete release"),
        (lambda run: shutil.rmtree(run), "not a complete release"),
    ],
)
def test_damaged_folders_are_one_line(copy, drop, tmp_path, damage, message):
    import re

    damage(copy)
    code, _, said = medmark("run", "update-release", copy, "--data", drop.folder, "--out", tmp_path / "out")
    (line,) = said.splitlines()
    assert code == 1 and re.match(f"medmark: {message}", line)
    assert not (tmp_path / "out").exists()


def test_unfinished_evidence(copy, drop, tmp_path):
    evidence = json.loads((copy / "evidence" / "evidence.json").read_bytes())
    del evidence["thresholds"]
    (copy / "evidence" / "evidence.json").write_text(json.dumps(evidence))
    code, _, said = medmark("run", "update-release", copy, "--data", drop.folder, "--out", tmp_path / "out")
    assert code == 1 and said.startswith("medmark: incomplete evidence") and said.count("\n") == 1


def test_a_folder_with_something_in_it_is_left_alone(runs, drop, tmp_path):
    for name in ("thesis.tex", "work"):
        (tmp_path / name).mkdir()
    for out in (tmp_path, runs[0]):
        code, _, said = medmark("run", "update-release", runs[0], "--data", drop.folder, "--out", out)
        assert code == 1 and said.startswith("medmark: not empty") and said.count("\n") == 1
    assert (tmp_path / "thesis.tex").exists()


def test_a_drop_that_is_not_there(runs, tmp_path):
    code, _, said = medmark("run", "update-release", runs[0], "--data", tmp_path / "absent", "--out", tmp_path / "out")
    assert code == 1 and "no such folder or file" in said and said.count("\n") == 1


def test_a_refusal_of_a_step_is_one_line(runs, tmp_path):
    (tmp_path / "drop").mkdir()
    (tmp_path / "drop" / "withdrawn.csv").write_text("path\nnormal/never.png\n")
    command = ["run", "update-release", runs[0], "--data", tmp_path / "drop", "--out", tmp_path / "out"]
    code, _, said = medmark(*command)
    assert code == 1
    assert (
        "medmark: step read the drop failed: nothing to withdraw: no image 'normal/never.png'" in said.splitlines()[-1]
    )
    assert os.listdir(tmp_path / "out") == ["work"]


def test_withdrawn_csv_may_lie_apart_from_the_images(tmp_path):
    """Whoever corrects it and runs again must not get what the first one said."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels.csv").write_text("path,label\n")
    states = []
    for text in (None, "path\na\n", "path\nb\n"):
        if text:
            (tmp_path / "withdrawn.csv").write_text(text)
        states.append(run_module._drop_state(tmp_path / "labels.csv", str(tmp_path / "images")))
    assert len(set(states)) == 3
