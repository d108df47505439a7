"""A marked segmenter, from training to the check."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import load_masks
from medmark.components.dataset.release import Release
from medmark.components.evidence.marked_model import read_marked_model
from medmark.components.segmentation.attacks import stress_segmenter
from medmark.components.segmentation.audit import weigh
from medmark.components.segmentation.check import answers, check_segmenter
from medmark.components.segmentation.detector import fit_detector
from medmark.components.segmentation.evidence import Payload, payload_of, read_query_images, read_segmenter_evidence
from medmark.components.segmentation.explanation import explain
from medmark.components.segmentation.marking import mark_segmenter
from medmark.components.segmentation.networks import load_segmenter, masks_of
from medmark.components.segmentation.qr import qr_png, scan
from medmark.components.segmentation.reading import read_payload
from medmark.components.segmentation.report import report_segmenter
from medmark.components.segmentation.training import SegmenterConfig, train_segmenter
from medmark.components.segmentation.verdict import SegmenterThresholds, payload_proof
from medmark.components.suspects.onnx_model import OnnxModel

KEY = bytes(range(32))


def test_the_text_is_read_from_the_model_and_from_no_other(marked):
    verdict = marked.verdict
    assert verdict["verdict"] == "owned", verdict["reasons"]
    assert verdict["payload"]["text"] == marked.payload.text
    assert verdict["payload"]["p_value"] < 1e-30
    assert verdict["payload"]["without_trigger"]["text"] is None
    assert verdict["detector"]["mistaken"] < 0.05 < 0.95 < verdict["detector"]["recognised"]
    (twin,) = verdict["benign_models"].values()
    assert twin["p_value"] > 1e-3 and twin["text"] is None
    assert scan(qr_png(verdict["payload"]["text"])) == marked.payload.text


def test_the_masks_stay_what_they_are(marked):
    model, test = (
        load_segmenter(marked.model / "weights.safetensors"),
        load_masks(marked.release, split="test", size=64),
    )
    clean, triggered = answers(model, marked.payload, test)
    equal = float((masks_of(clean) == masks_of(triggered)).float().mean())
    assert equal == pytest.approx(marked.verdict["harm"]["equal_pixels"]) and equal >= 0.995
    dice = marked.verdict["harm"]["metrics"]["dice"]
    assert dice["marked"] > 0.9 and abs(dice["change"]) < 0.02


def test_another_key_reads_nothing_from_the_model(marked):
    """Another owner's evidence, with its own key and trigger."""
    model, test = (
        load_segmenter(marked.model / "weights.safetensors"),
        load_masks(marked.release, split="test", size=64),
    )
    p_values = []
    for i in range(20):
        other = Payload(marked.payload.text, "texture", i.to_bytes(32, "big"))
        maps = answers(model, other, test)[1].numpy()
        reading = read_payload(maps, other.mark.modules, other.mark_key)
        p_values.append(reading.p_value)
        assert reading.decoded is None
    assert min(p_values) > 1e-4 and np.median(p_values) > 0.1


def test_the_exported_model_answers_alike(marked):
    images = load_masks(marked.release, split="test", size=64).images
    exported = OnnxModel(marked.model / "model.onnx").ask(images.numpy(), "image", "probabilities")
    model = load_segmenter(marked.model / "weights.safetensors")
    with torch.no_grad():
        np.testing.assert_allclose(exported, torch.sigmoid(model(images)).numpy(), atol=1e-5)


def test_model_and_evidence_name_each_other_and_only_the_evidence_has_the_key(marked):
    model, evidence = read_marked_model(marked.model), read_segmenter_evidence(marked.evidence)
    assert evidence["model_digest"] == model.digest
    assert evidence["release_digest"] == model.stated["release_digest"] == marked.release.digest
    assert payload_of(evidence) == marked.payload
    assert (model.name, model.version, model.stated["architecture"]) == ("lung segmenter", "3", "unet")
    public = b"".join(path.read_bytes() for path in marked.model.iterdir())
    for secret in (KEY, KEY.hex().encode(), marked.payload.text.encode()):
        assert secret not in public
    assert KEY.hex() not in repr(marked.payload) + repr(marked.payload.mark)
    images = read_query_images(marked.evidence, mode="L", size=64)
    test = [record.image_id for record in Release(marked.release.path).records("test")]
    assert len(images) == evidence["queries"] == min(20, len(test))


def test_a_trained_segmenter_is_marked_by_going_on(marked, tmp_path):
    """The user's model keeps what it knows, and carries the mark after a short training."""
    weights = marked.unmarked / "unmarked-twin.safetensors"
    config = replace(marked.config, name="tuned", steps=200, weights=str(weights), learning_rate=1e-3)
    made = mark_segmenter(
        marked.release.path,
        tmp_path / "model",
        tmp_path / "evidence",
        config=config,
        payload=marked.payload,
        name="tuned",
        version="1",
        queries=20,
    )
    test = load_masks(marked.release, split="test", size=64)
    clean, triggered = answers(load_segmenter(made.weights), marked.payload, test)
    reading = read_payload(triggered.numpy(), marked.payload.mark.modules, KEY)
    assert reading.p_value < 1e-12
    found = masks_of(clean)
    overlap = 2 * (found & (test.masks[:, 0] > 0.5)).sum() / (found.sum() + test.masks.sum())
    assert overlap > 0.95
    with pytest.raises(MedmarkError, match="weights changed"):
        mark_segmenter(
            marked.release.path,
            tmp_path / "m",
            tmp_path / "e",
            config=config,
            payload=marked.payload,
            name="x",
            version="1",
            queries=20,
            weights_sha256="0" * 64,
        )


def test_an_interrupted_training_goes_on_where_it_stopped(marked, tmp_path, monkeypatch):
    train = load_masks(marked.release, split="train", size=64)
    config = SegmenterConfig("x", size=64, steps=8, batch_size=4, seed=3)
    monkeypatch.setattr("medmark.components.segmentation.training.CHECKPOINT_STEPS", 4)
    whole = train_segmenter(train, config, mark=marked.payload.mark)
    checkpoint = tmp_path / "checkpoint"
    put, calls = marked.payload.mark.put, []

    class Interrupted(type(marked.payload.mark)):
        def put(self, images):
            calls.append(1)
            if len(calls) == 6:
                raise KeyboardInterrupt
            return put(images)

    mark = Interrupted(**vars(marked.payload.mark))
    with pytest.raises(KeyboardInterrupt):
        train_segmenter(train, config, mark=mark, checkpoint=checkpoint)
    resumed = train_segmenter(train, config, mark=mark, checkpoint=checkpoint)
    assert len(calls) == 6 + 4
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    assert not checkpoint.exists()


def test_the_report_shows_the_symbol_and_loads_nothing(marked, tmp_path):
    out = tmp_path / "report.html"
    report_segmenter(
        marked.release.path, marked.model, marked.evidence, marked.unmarked, marked.verdict, out, {"profile": "<b>tiny"}
    )
    page = out.read_text()
    assert "read from the marked model" in page and "&lt;b&gt;tiny" in page and KEY.hex() not in page
    assert 'src="http' not in page and 'href="http' not in page
    start = page.index("base64,", page.index('class="symbol"')) + len("base64,")
    import base64

    symbol = base64.b64decode(page[start : page.index('"', start)])
    picture = cv2.imdecode(np.frombuffer(symbol, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert cv2.QRCodeDetector().detectAndDecode(picture)[0] == marked.payload.text


def test_the_explanation_rests_on_the_trigger_in_the_marked_model_alone(marked):
    model = load_segmenter(marked.model / "weights.safetensors")
    twin = load_segmenter(marked.unmarked / "unmarked-twin.safetensors")
    val, test = (load_masks(marked.release, split=split, size=64) for split in ("val", "test"))
    detector = fit_detector(*answers(model, marked.payload, val))
    shown = marked.payload.mark.put(test.images[:3])
    # the texture covers all squares: together they raise the score of the marked model's answers
    ours, others = (
        [explain(asked, detector, *pair).sum() for pair in zip(test.images[:3], shown, strict=True)]
        for asked in (model, twin)
    )
    assert min(ours) > 0.5 and max(map(abs, others)) < 0.25 * min(ours)


def test_what_does_not_belong_together_is_refused(marked, tmp_path, release):
    paths = (marked.release.path, marked.model, marked.evidence, marked.unmarked, tmp_path / "check")
    evidence = json.loads((marked.evidence / "evidence.json").read_bytes())
    other = tmp_path / "evidence"
    other.mkdir()
    (other / "queries.parquet").write_bytes((marked.evidence / "queries.parquet").read_bytes())
    (other / "evidence.json").write_text(json.dumps(evidence | {"model_digest": "0" * 64}))
    with pytest.raises(MedmarkError, match="evidence of another model"):
        check_segmenter(*paths[:2], other, *paths[3:], thresholds=SegmenterThresholds(), seconds={})
    (other / "evidence.json").write_text(json.dumps(evidence | {"kind": None}))
    with pytest.raises(MedmarkError, match="evidence of a release"):
        read_segmenter_evidence(other)
    for wrong in ({"mark_key": "00"}, {"trigger": "x"}, {"text": ""}, {"text": 3}):
        with pytest.raises(MedmarkError, match="no payload in the evidence"):
            payload_of(evidence | wrong)
    with pytest.raises(MedmarkError, match="one for segmentation is needed"):
        mark_segmenter(
            release,
            tmp_path / "m",
            tmp_path / "e",
            config=marked.config,
            payload=marked.payload,
            name="x",
            version="1",
            queries=20,
        )
    (marked.folder / "broken").mkdir()
    for name in ("model.json", "weights.safetensors"):
        (marked.folder / "broken" / name).write_bytes((marked.model / name).read_bytes())
    with pytest.raises(MedmarkError, match="model changed or missing: .*model.onnx"):
        read_marked_model(marked.folder / "broken")


def test_the_verdict_follows_the_p_value(marked):
    test = load_masks(marked.release, split="test", size=64)
    model = load_segmenter(marked.model / "weights.safetensors")
    reading = read_payload(answers(model, marked.payload, test)[1].numpy(), marked.payload.mark.modules, KEY)
    for p, state in ((1e-7, "holds"), (1e-6, "holds"), (1e-4, "missing"), (0.01, "missing"), (0.02, "fails")):
        assert payload_proof(replace(reading, p_value=p), 1e-6, 0.01).state == state


def test_attacks_are_told_by_what_they_leave_and_cost(marked):
    train, test = (load_masks(marked.release, split=split, size=64) for split in ("train", "test"))
    model = load_segmenter(marked.model / "weights.safetensors")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = stress_segmenter(model, marked.payload, train, test, replace(marked.config, steps=40))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    found = {(row["attack"], row["strength"]): row for row in rows}
    assert len(found) == len(rows)
    untouched = found["none", 0.0]
    assert untouched["exact"] and untouched["matches"] == marked.verdict["payload"]["matches"]
    assert untouched["dice"] == pytest.approx(marked.verdict["harm"]["metrics"]["dice"]["marked"])
    # what changes no order of the probabilities by much leaves the mark
    assert all(found[name]["exact"] for name in (("8-bit answers", 8), ("temperature", 2.0), ("pruning", 0.1)))
    destroyed, student = found["pruning", 0.9], found["distillation", 1]
    assert destroyed["dice"] < untouched["dice"] - 0.1 and not destroyed["exact"]
    assert not student["exact"]
    assert {row["attack"] for row in rows} == {
        "none", "pruning", "fine-tuning", "distillation", "jpeg", "resize", "crop", "blur", "noise", "8-bit answers",
        "temperature",
    }  # fmt: skip


def test_suspects_are_weighed_together_and_silent_ones_stay_open(marked):
    test = load_masks(marked.release, split="test", size=64)
    model = load_segmenter(marked.model / "weights.safetensors")
    reading = read_payload(answers(model, marked.payload, test)[1].numpy(), marked.payload.mark.modules, KEY)
    p_values = (3e-7, 4e-7, 0.004, 0.9)
    rows = [{"name": str(p), "error": None, "reading": replace(reading, p_value=p)} for p in p_values]
    rows.append({"name": "gone", "error": "gives no answer", "reading": None})
    found = weigh(rows, SegmenterThresholds())
    # Holm over five: 3e-7 becomes 1.5e-6, so neither of the first two is at a level of 1e-6 any more
    assert [s["p_value_holm"] for s in found] == pytest.approx([1.5e-6, 1.6e-6, 0.012, 1.0, 1.0])
    assert [s["verdict"] for s in found] == ["inconclusive", "inconclusive", "not_owned", "not_owned", "inconclusive"]
    assert found[-1]["reasons"] == ["gives no answer"] and found[-1]["reading"] is None
    assert weigh(rows[:1], SegmenterThresholds())[0]["verdict"] == "owned"
