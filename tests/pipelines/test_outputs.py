"""Where commands write: one at a time, into folders of the user's own, readable by nobody else."""

import json
import os
import stat

import pytest
from made_up_run import make_run
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.phantoms import make_phantoms
from medmark.components.evidence.secrets import draw_secrets, read_secrets
from medmark.components.profiles import chosen_profile, marking_arguments
from medmark.pipelines.local_run import run_locally
from medmark.pipelines.run_arguments import NOBODY

AUDIT = {"release_digest": "0" * 64, "evidence_sha256": "1" * 64, "suspects": []}


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """Release, evidence and keep of a first marking."""
    return make_run(tmp_path_factory.mktemp("marked"), count=40)


@pytest.fixture(params=["mark-release", "update-release", "audit", "stress"])
def command(request, marked, monkeypatch):
    """The arguments of a command but for its output, and how to put something in the place of its work."""
    work = {"audit": "audit_suspect.run.audit", "stress": None}.get(
        request.param, f"{request.param.replace('-', '_')}.run.run_locally"
    )
    target = f"medmark.pipelines.{work}" if work else "medmark.components.robustness.stress.stress"
    arguments = {
        "mark-release": ("run", "mark-release", "--data", marked / "raw" / "labels.csv", "--label-column", "label"),
        "update-release": ("run", "update-release", marked, "--data", marked / "raw" / "labels.csv"),
        "audit": ("audit", marked / "evidence", "--suspect", "x.onnx"),
        "stress": ("stress", marked / "evidence", "--release", marked / "release"),
    }[request.param]
    return arguments, lambda stand_in: monkeypatch.setattr(target, stand_in)


def test_a_second_command_is_kept_out_of_a_folder(medmark, command, tmp_path):
    arguments, replace_work = command
    calls, seen = [], []

    def work(*given, **options):
        calls.append(given)
        if len(calls) == 1:
            seen.append(medmark(*arguments, "--out", tmp_path / "out"))
        raise MedmarkError("stopped here")

    replace_work(work)
    code, _, err = medmark(*arguments, "--out", tmp_path / "out")
    assert code == 1 and "stopped here" in err and len(calls) == 1
    ((code, _, err),) = seen
    assert code == 1 and f"another command writes to {tmp_path / 'out'} at this moment" in err and err.count("\n") == 1
    calls.append("the next one is not the first")
    code, _, err = medmark(*arguments, "--out", tmp_path / "out")  # what was interrupted goes on
    assert "stopped here" in err and len(calls) == 3


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_what_a_command_makes_is_its_owners(medmark, command, tmp_path, umask):
    arguments, replace_work = command
    out, made = tmp_path / "out", []

    def work(*given, **options):
        (out / "deep" / "er").mkdir(parents=True)
        (out / "deep" / "er" / "file").write_text("secret")
        made.extend((path, stat.S_IMODE(path.lstat().st_mode)) for path in [out, *out.rglob("*")])
        raise MedmarkError("stopped here")

    replace_work(work)
    before = os.umask(umask)
    try:
        assert medmark(*arguments, "--out", out)[0] == 1
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert len(made) > 3
    assert {path: mode for path, mode in made if mode != (0o700 if path.is_dir() else 0o600)} == {}


@pytest.mark.parametrize("umask", [0, 0o022])
def test_an_audit_with_its_report_and_tracking_is_its_owners(medmark, marked, tmp_path, monkeypatch, umask):
    """MLflow's database and its journal too."""
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(variable, raising=False)
    out = tmp_path / "out"

    def work(evidence, targets, folder, **options):
        (out / "audit.json").write_text("{}")
        return AUDIT

    monkeypatch.setattr("medmark.pipelines.audit_suspect.run.audit", work)
    monkeypatch.setattr(
        "medmark.pipelines.audit_suspect.run.write_audit_report", lambda path, audit: path.write_text("page")
    )
    monkeypatch.setattr("medmark.pipelines.commands.audit.print_audit", lambda *given: None)
    before = os.umask(umask)
    try:
        code, _, err = medmark("audit", marked / "evidence", "--suspect", "x.onnx", "--out", out)
    finally:
        os.umask(before)
    assert code == 0, err
    names = {path.name for path in out.iterdir()}
    assert names >= {"audit.json", "audit.html", "mlflow.db", "mlartifacts"} and ".medmark.lock" not in names
    open_to_others = [path for path in [out, *out.rglob("*")] if path.stat().st_mode & 0o077]
    assert open_to_others == []


def test_a_link_is_no_folder_to_write_to(medmark, command, tmp_path):
    arguments, replace_work = command
    calls = []
    replace_work(lambda *given, **options: calls.append(given))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / "file").write_text("mine")
    code, _, err = medmark(*arguments, "--out", tmp_path / "link")
    assert code == 1 and f"a link: {tmp_path / 'link'}; give the folder itself" in err and err.count("\n") == 1
    code, _, err = medmark(*arguments, "--out", tmp_path / "file")
    assert code == 1 and f"a file: {tmp_path / 'file'}; choose a folder" in err and err.count("\n") == 1
    assert calls == [] and os.listdir(tmp_path / "elsewhere") == []
    assert (tmp_path / "file").read_text() == "mine"


def test_somebody_elses_folder_is_not_written_to(medmark, command, tmp_path):
    arguments, replace_work = command
    calls = []
    replace_work(lambda *given, **options: calls.append(given))
    out = tmp_path / "out"
    out.mkdir()
    if os.geteuid():
        pytest.skip("only root can make a folder of somebody else's")
    os.chown(out, 12345, 12345)
    code, _, err = medmark(*arguments, "--out", out)
    assert code == 1 and f"belongs to somebody else: {out}; choose a folder of your own" in err
    assert calls == [] and os.listdir(out) == []


@pytest.mark.parametrize(("mode", "taken"), [(0o777, False), (0o1777, True), (0o775, True)])
def test_where_everybody_may_write_only_a_sticky_folder_will_do(medmark, command, tmp_path, mode, taken):
    """Else anybody could put another folder in the place of the one that was made."""
    arguments, replace_work = command
    calls = []

    def work(*given, **options):
        calls.append(given)
        raise MedmarkError("stopped here")

    replace_work(work)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    code, _, err = medmark(*arguments, "--out", shared / "out")
    assert code == 1 and bool(calls) == taken
    assert taken or os.listdir(shared) == []
    assert ("stopped here" if taken else f"anybody may replace what is in {shared}; ") in err


@pytest.mark.parametrize("command", ["mark-release", "update-release"], indirect=True)
@pytest.mark.parametrize("planted", ["link", "open folder", "link inside"])
def test_work_that_others_may_have_left_is_not_gone_on_with(medmark, command, tmp_path, planted):
    arguments, replace_work = command
    calls = []
    replace_work(lambda *given, **options: calls.append(given))
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    if planted == "link":
        (out / "work").symlink_to(elsewhere)
    else:
        (out / "work" / "steps").mkdir(parents=True)
    if planted == "open folder":
        (out / "work").chmod(0o777)
    if planted == "link inside":
        (out / "work" / "steps" / "evidence").symlink_to(elsewhere)
    code, _, err = medmark(*arguments, "--out", out)
    assert code == 1 and "remove" in err and str(out / "work") in err and err.count("\n") == 1
    assert calls == [] and os.listdir(elsewhere) == []


def test_a_folder_with_something_else_in_it_keeps_its_mode(medmark, command, tmp_path):
    arguments, replace_work = command
    calls = []
    replace_work(lambda *given, **options: calls.append(given))
    tmp_path.chmod(0o755)
    (tmp_path / "mine").write_text("my file")
    code, _, err = medmark(*arguments, "--out", tmp_path)
    assert code == 1 and "not empty" in err and calls == []
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755 and os.listdir(tmp_path) == ["mine"]


def test_how_the_patients_key_reaches_a_run(medmark, marked, tmp_path, monkeypatch):
    """As the name of a file: parameters stand in logs. Phantoms are nobody, so that one seed gives one release."""
    given = []

    def work(pipeline, arguments, folder, debug):
        given.append(arguments)
        raise MedmarkError("stopped here")

    def few(folder, **options):
        return make_phantoms(folder, count=20, size=64, seed=options["seed"])

    monkeypatch.setattr("medmark.pipelines.mark_release.run.run_locally", work)
    monkeypatch.setattr("medmark.pipelines.mark_release.run.make_phantoms", few)
    key, raw = tmp_path / "patients.json", ("--data", marked / "raw" / "labels.csv", "--label-column", "label")
    for name, options in (("a", raw), ("b", (*raw, "--patients", key)), ("c", ()), ("d", ("--seed", 5))):
        code, _, err = medmark("run", "mark-release", "--out", tmp_path / name, *options)
        assert code == 1 and "stopped here" in err
    drawn, named, *phantoms = given
    assert drawn["patients"] == {} and "patient_key" not in drawn["ingest_options"]
    expanded = marking_arguments(chosen_profile(drawn["profile"], drawn["overrides"]), drawn["ingest_options"])
    assert expanded["ingest_options"]["patient_key"] == {"$secret": "patient_key"}
    assert named["ingest_options"] == drawn["ingest_options"] and named["patients"]["file"] == str(key)
    draw_secrets(tmp_path / "secrets", None, named["patients"]["file"])
    assert read_secrets(tmp_path / "secrets").patient_key == json.loads(key.read_bytes())["key"] not in str(named)
    assert {arguments["ingest_options"]["patient_key"] for arguments in phantoms} == {NOBODY}
    pictures = [sorted(path.read_bytes() for path in (tmp_path / n / "work").rglob("*.png")) for n in "cd"]
    assert pictures[0] == pictures[1] and len(pictures[0]) == 20  # else they would tell the seed


def test_steps_of_a_loop_that_end_crosswise_leave_print_as_it_was(tmp_path, capsys, monkeypatch):
    """kfp.local indents what the steps print, in threads: the second takes the first one's print for the right one."""
    from kfp.local.logging_utils import indented_print
    from medmark.pipelines.audit_lineage.pipeline import audit_lineage

    class Crosswise:
        pipeline_spec = audit_lineage.pipeline_spec

        def __call__(self):
            first, second = indented_print(), indented_print()
            first.__enter__(), second.__enter__()
            first.__exit__(None, None, None), second.__exit__(None, None, None)

    monkeypatch.setattr("builtins.print", print)
    run_locally(Crosswise(), {}, tmp_path, debug=False)
    print("the verdict")
    assert capsys.readouterr().out == "the verdict\n"
