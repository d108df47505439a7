import json
import stat
import sys

import numpy as np
import pytest
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.release import Release
from medmark.pipelines import cli
from PIL import Image


def test_from_phantoms_to_exported_files(medmark, tmp_path):
    assert medmark("phantom", "--out", tmp_path / "p", "--count", 40, "--size", 64)[0] == 0
    code, out, _ = medmark("ingest", tmp_path / "p", "--out", tmp_path / "r", "--name", "chest")
    assert code == 0 and "40 of " in out and "pneumonia" in out
    code, out, _ = medmark("inspect", tmp_path / "r", "--preview", tmp_path / "sheet.png")
    assert code == 0 and Release(tmp_path / "r").digest in out
    assert Image.open(tmp_path / "sheet.png").size == (6 * 192, 2 * 192)
    for kind, suffix in (("png", "*.png"), ("dicom", "*.dcm")):
        code, out, _ = medmark("export", tmp_path / "r", "--out", tmp_path / kind, "--format", kind)
        assert code == 0 and out.startswith("40 files")
        assert len(list((tmp_path / kind).rglob(suffix))) == 40


def test_ingest_of_a_csv_with_conditions(medmark, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    rows = ["file,who,sick,place"]
    for i in range(30):
        Image.fromarray(np.full((16, 16), i, np.uint8)).save(images / f"{i}.png")
        rows.append(f"images/{i}.png,p{i},{i % 2},{'here' if i < 24 else 'there'}")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    columns = ("--label-column", "sick", "--patient-column", "who", "--path-column", "file")
    code, out, _ = medmark(
        "ingest", tmp_path / "list.csv", "--out", tmp_path / "r", *columns, "--classes", "well,sick", "--where", "place=here"
    )  # fmt: skip
    assert code == 0
    release = Release(tmp_path / "r")
    assert len(release) == 24 and release.class_names == ["well", "sick"]


@pytest.mark.parametrize(
    "arguments, remedy",
    [
        (("ingest", "absent", "--out", "r"), "give a folder per class"),
        (("inspect", "absent"), "absent"),
        (("phantom", "--out", "p", "--count", "3"), "ask for at least 20"),
        (("export", "absent", "--out", "e"), "absent"),
        (("run", "mark-release", "--out", "o", "--profile", "huge"), "use one of smoke, standard, full"),
        (("run", "mark-release", "--out", "o", "--set", "size"), "write for example --set size=64"),
        (("run", "mark-release", "--out", "o", "--set", "colour=red"), "unknown parameter: colour"),
        (("run", "mark-release", "--out", "o", "--data", "absent"), "correct --data"),
        (("ingest", "absent", "--out", "r", "--where", "subset"), "--where subset is not name=value"),
    ],
)
def test_errors_are_one_line_with_the_remedy(medmark, tmp_path, monkeypatch, arguments, remedy):
    monkeypatch.chdir(tmp_path)
    code, out, err = medmark(*arguments)
    assert code == 1 and out == ""
    assert err.startswith("medmark: ") and err.count("\n") == 1 and remedy in err


def test_a_finished_run_is_not_overwritten(medmark, tmp_path):
    (tmp_path / "verdict.json").write_text("{}")
    code, _, err = medmark("run", "mark-release", "--out", tmp_path)
    assert code == 1 and "not empty" in err and "choose a new folder with --out" in err
    assert (tmp_path / "verdict.json").read_text() == "{}"


def test_an_unforeseen_error_is_one_line_too(medmark, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    code, _, err = medmark("compile", "--unpinned", "--out", tmp_path / "file")
    assert code == 1 and err.startswith("medmark: FileExistsError") and err.count("\n") == 1


def test_debug_shows_where(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["medmark", "inspect", str(tmp_path / "absent"), "--debug"])
    with pytest.raises(cli.MedmarkError):
        cli.main()


def test_unknown_commands_and_options_fail(medmark):
    assert medmark("mark")[0] == 2
    assert medmark("phantom", "--out", "p", "--colour")[0] == 2


def test_a_verdict_other_than_owned_is_exit_code_3(medmark, tmp_path, monkeypatch):
    from medmark.pipelines.mark_release import run

    given = {
        "verdict": "owned",
        "reasons": [],
        "malicious": {
            "wsr": 0.975, "clean_rate": 0.05, "delta_p": 0.9, "delta_p_ci95": [0.8, 0.95], "t_p_value": 1e-9,
            "wilcoxon_p_value": 1e-8, "bound_p_value": 1e-8, "label_only_p_value": 1e-7, "conformal_p_value": 0.0476,
            "conformal_resolution": 0.0476, "queries": 100, "control_delta_p": 0.02, "control_t_p_value": 1.0,
            "contrast_delta_p": 0.88, "contrast_t_p_value": 1e-9, "contrast_bound_p_value": 1e-8,
            "key_p_value": 0.002,
        },
        "victims": [{}, {}],
        "thresholds": {"alpha": 0.01, "tau": 0.2, "conformal_alpha": 0.05, "min_queries": 30},
        "independent_models": {"accused": 0, "count": 20, "max_delta_p": 0.01},
        "independent_trigger": {"accused": 0, "delta_p": 0.02},
        "accuracy": {"marked": 0.95, "benign": 0.955},
        "quality": {"ssim": 0.97, "haarpsi": 0.9, "psnr": 36.0},
        "marked_fraction": 0.1,
        "robustness": [],
        "seconds": {"total": 5.0},
    }  # fmt: skip
    monkeypatch.setattr(run, "run_mark_release", lambda *a, **k: given)
    code, out, _ = medmark("run", "mark-release", "--out", tmp_path)
    assert code == 0 and "97.5 %" in out and str(tmp_path / "report.html") in out
    for verdict in ("not_owned", "inconclusive"):
        given = json.loads(json.dumps(given)) | {"verdict": verdict, "reasons": ["too few queries"]}
        code, out, _ = medmark("run", "mark-release", "--out", tmp_path)
        assert code == 3 and verdict in out and "too few queries" in out


def test_the_rule_for_patients_reaches_the_runs(medmark, tmp_path, monkeypatch):
    from medmark.pipelines.mark_release import run as marking
    from medmark.pipelines.update_release import run as updating

    given = []

    def stop(*_, ingest_options=None, drop_options=None, **__):
        given.append(ingest_options or drop_options)
        raise MedmarkError("stopped here")

    monkeypatch.setattr(marking, "run_mark_release", stop)
    monkeypatch.setattr(updating, "run_update_release", stop)
    for command in (("mark-release",), ("update-release", tmp_path)):
        for pattern in ((), ("--patient-pattern", "(p[0-9]+)")):
            assert medmark("run", *command, "--data", tmp_path, "--out", tmp_path / "o", *pattern)[0] == 1
    assert [options["patient_pattern"] for options in given] == [None, "(p[0-9]+)"] * 2


def test_ingested_drops_share_pseudonyms_by_a_kept_key(medmark, tmp_path):
    medmark("phantom", "--out", tmp_path / "raw", "--count", 40, "--size", 64)

    def patients(name, *options):
        assert medmark("ingest", tmp_path / "raw", "--out", tmp_path / name, *options)[0] == 0
        return {record.patient_id for record in Release(tmp_path / name).records(columns=["patient_id"])}

    key = tmp_path / "patients.json"
    kept = [patients(name, "--patients", key) for name in ("one", "two")]
    assert kept[0] == kept[1] and stat.S_IMODE(key.stat().st_mode) == 0o600
    free = [patients(name) for name in ("three", "four")]
    assert not free[0] & free[1] and not free[0] & kept[0]  # without a key nobody can connect two releases
    seeded = [patients(name, "--seed", 3) for name in ("five", "six")]
    assert not seeded[0] & seeded[1]  # who guesses the seed connects nobody
    key.write_text('{"key": null}')
    code, _, error = medmark("ingest", tmp_path / "raw", "--out", tmp_path / "seven", "--patients", key)
    assert code == 1 and "no key of pseudonyms" in error
