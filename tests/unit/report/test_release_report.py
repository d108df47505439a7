"""The report made from a pipeline's artifacts."""

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
from made_up_audit import Tags, inputs
from medmark.components.dataset.codecs import decode_png, encode_png
from medmark.components.dataset.release import Release
from medmark.components.dataset.release_writer import ReleaseWriter
from medmark.components.report import release_report
from medmark.components.report.release_report import choose, report_release


def test_shows_from_the_most_to_the_least_changed():
    ledger = pd.DataFrame({"image_id": list("gfedcba"), "ssim": [0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.91]})
    chosen = choose(ledger)
    assert list(chosen) == ["a", "c", "e", "g"]
    assert chosen["a"] == "the most changed of 7 marked images, likeness (SSIM) 0.910"
    assert chosen["c"].startswith("number 3 of 7") and chosen["g"].startswith("the least changed of 7")
    assert list(choose(ledger[:1])) == ["g"]


@pytest.fixture
def artifacts(release, saliency, surrogates, tmp_path) -> dict:
    """What the steps before the report leave, with a mark that is plain to see."""
    clean = Release(release)
    marked = tmp_path / "marked"
    rows, marks = [], 0
    with ReleaseWriter(marked, name=clean.name, version="2", class_names=clean.class_names) as writer:
        for record in clean.records():
            if record.split == "train" and record.label == 0 and marks < 5:
                pixels = decode_png(record.image)
                pixels[:8, :8] = 255
                record = replace(record, image=encode_png(pixels), sha256="")
                rows.append({"image_id": record.image_id, "role": "mark", "ssim": 0.9 + 0.01 * marks})
                marks += 1
            elif record.split == "train" and record.label == 1:
                rows.append({"image_id": record.image_id, "role": "decoy", "ssim": 0.1})
            writer.add(record)
    (tmp_path / "evidence").mkdir()
    pd.DataFrame(rows).to_parquet(tmp_path / "evidence" / "ledger.parquet")
    (tmp_path / "generator").mkdir()
    (tmp_path / "generator" / "history.json").write_text(json.dumps([{"step": 0, "hard": 1.0}]))
    marked_models = tmp_path / "victims"
    shutil.copytree(surrogates, marked_models)
    given = inputs()
    (tmp_path / "check").mkdir()
    (tmp_path / "check" / "verdict.json").write_text(json.dumps(given["verdict"]))
    given["scores"].to_parquet(tmp_path / "check" / "scores.parquet")
    return {
        "clean_dir": release,
        "marked_dir": marked,
        "evidence_dir": tmp_path / "evidence",
        "saliency_dir": saliency,
        "generator_dir": tmp_path / "generator",
        "models_dirs": [surrogates, marked_models],
        "check_dir": tmp_path / "check",
        "out_html": tmp_path / "report.html",
    }


def test_collects_images_histories_and_numbers(artifacts, monkeypatch):
    shown = {}

    def spy(out_html, **arguments):
        shown.update(arguments)
        return write_report(out_html, **arguments)

    write_report = release_report.write_report
    monkeypatch.setattr(release_report, "write_report", spy)
    report_release(**artifacts, parameters={"epsilon": 0.06})
    assert [picture.note.split(",")[0] for picture in shown["pictures"]] == [
        "the most changed of 5 marked images",
        "number 2 of 5 marked images",
        "number 4 of 5 marked images",
        "the least changed of 5 marked images",
    ]
    for picture in shown["pictures"]:  # decoys, however much they changed, are not shown as marks
        assert picture.label == Release(artifacts["clean_dir"]).class_names[0]
        assert (picture.marked[:8, :8] == 1).all() and (picture.marked[8:] == picture.clean[8:]).all()
        assert 0 <= picture.saliency.min() < picture.saliency.max() <= 1
    assert {"generator", "surrogate-0", "surrogate-1"} <= set(shown["histories"])
    text = Tags(artifacts["out_html"].read_text(encoding="utf-8")).text
    assert "The mark works and accuses no benign model" in text and "epsilon0.06" in text
    assert "the most changed of 5 marked images, likeness (SSIM) 0.900" in text
