"""The report as a reader and a browser get it, from real audits of made-up models."""

import base64
import io
import re

import numpy as np
import pytest
from made_up_audit import TARGET, Tags, inputs
from medmark.components.report.figures import Picture, difference_png
from medmark.components.report.report import write_report
from PIL import Image

HOSTILE = '<script>alert("x")</script><img src=http://evil.example/a.png onerror=alert(1)>'


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return written(tmp_path_factory.mktemp("report"), **inputs())


def written(folder, **arguments) -> str:
    write_report(folder / "report.html", **arguments)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_says_first_that_the_mark_works(page):
    text = Tags(page).text
    assert "The mark works and accuses no benign model" in text
    assert text.index("The mark works") < text.index("The proofs") < text.index("Parameters")
    assert "0 of 19" in text and "benign models, trained without the mark, would be accused" in text
    assert "no radiologist has judged it" in text and "It does not show" in text
    assert "fails" not in text


def test_a_mark_that_does_not_work_is_not_praised(tmp_path):
    text = Tags(written(tmp_path, **inputs(marked_model=0.5))).text
    assert "The mark does not work: do not publish this release" in text
    assert "0 of 2 models that were trained on this release as a test passed every proof" in text
    assert "marked-a: t-test" in text and "fails" in text
    assert "The mark works" not in text


def test_accused_benign_are_named_in_the_verdict(tmp_path):
    arguments = inputs(marked_model=8.0, odd=6.0)
    assert arguments["verdict"]["independent_models"]["accused"] == 1
    text = Tags(written(tmp_path, **arguments)).text
    assert "1 of 19 benign models would be wrongly accused" in text.split("The proofs")[0]
    assert "yes (benign)" in text and "The mark works" not in text


def test_a_mark_that_any_pattern_sets_off_is_not_praised(tmp_path):
    text = Tags(written(tmp_path, **inputs(fires=6.0))).text
    assert "2 of 2 models also react to another generator's mark" in text
    assert "The mark works" not in text


@pytest.mark.parametrize("missing", [{"benign_models": 5}, {"control": False}])
def test_missing_proofs_leave_it_open(tmp_path, missing):
    text = Tags(written(tmp_path, **inputs(**missing))).text
    assert "The check is inconclusive" in text and "not every proof could be had" in text
    assert "The mark works" not in text


def test_numbers_are_those_of_the_verdict(tmp_path):
    arguments = inputs(marked_model=4.0)
    text = Tags(written(tmp_path, **arguments)).text
    m = arguments["verdict"]["malicious"]
    assert f"{m['delta_p']:.2f} ({m['delta_p_ci95'][0]:.2f} to {m['delta_p_ci95'][1]:.2f})" in text
    assert f"{100 * m['wsr']:.1f} %" in text
    assert "95.0 % when trained on the release" in text and "−1.0 points" in text
    assert "ab" * 32 in text and "cd" * 32 in text
    for entry in arguments["verdict"]["independent_models"]["models"]:
        assert f"{entry['name']}" in text and f"{entry['delta_p']:+.3f}" in text


def test_nothing_is_loaded_from_elsewhere(page):
    parsed = Tags(page)
    for tag, attributes in parsed.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "srcset", "data", "action", "background", "poster"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "@import" not in page and "url(" not in page
    policy = next(a["content"] for t, a in parsed.tags if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert "http" not in page.replace("http-equiv", "")


def test_charts_refer_to_nothing_outside_themselves(page):
    charts = [base64.b64decode(c).decode() for c in re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", page)]
    assert len(charts) == 4
    for chart in charts:
        assert "<script" not in chart
        assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', chart))
        assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", chart))


def test_names_from_outside_are_text(tmp_path):
    arguments = inputs(name=HOSTILE, image_id=HOSTILE)
    arguments["verdict"]["dataset"]["target_class"] = HOSTILE
    arguments["verdict"]["reasons"] = [HOSTILE]
    arguments["verdict"]["victims"][0]["name"] = HOSTILE
    arguments["pictures"][0].label = HOSTILE
    parsed = Tags(written(tmp_path, **arguments))
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert all(a["src"].startswith("data:") for t, a in parsed.tags if t == "img")
    assert not any("onerror" in a for _, a in parsed.tags)
    assert f"Image {HOSTILE}" in parsed.text


def test_dollars_in_class_names_are_no_mathematics(tmp_path):
    arguments = inputs()
    arguments["verdict"]["dataset"]["target_class"] = r"cost $\frac{"
    assert r"cost $\frac{" in Tags(written(tmp_path, **arguments)).text


def test_same_inputs_same_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert written(tmp_path / "a", **inputs()) == written(tmp_path / "b", **inputs())


def test_the_difference_is_white_where_nothing_changed_and_red_where_brighter():
    clean = np.full((10, 10), 0.5, dtype=np.float32)
    marked = clean.copy()
    marked[2, 3] += 0.08
    pixels = decoded(difference_png(Picture("i", TARGET, clean, marked, np.zeros((4, 4), dtype=np.float32))))
    assert pixels.shape == (10, 10, 3)
    red, green, blue = pixels[2, 3].astype(int)
    assert red > green + 50 and red > blue + 50
    unchanged = np.delete(pixels.reshape(-1, 3), 23, axis=0)
    assert unchanged.min() > 240


def test_large_images_are_shown_reduced(tmp_path):
    arguments = inputs()
    big = np.zeros((1200, 1600), dtype=np.float32)
    arguments["pictures"] = [Picture("big", TARGET, big, big, np.ones((32, 32), dtype=np.float32))]
    shown = [a["src"] for t, a in Tags(written(tmp_path, **arguments)).tags if t == "img" and "png" in a["src"][:16]]
    assert [decoded(src).shape[:2] for src in shown] == [(384, 512)] * 4


def decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))))
