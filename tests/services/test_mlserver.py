"""A real Open Inference v2 server, MLServer, that is audited over HTTP."""

import logging

import numpy as np
import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.queries import QuerySet
from medmark.components.segmentation.networks import build_segmenter
from medmark.components.surrogate.networks import build, load_classifier, save_classifier
from medmark.components.surrogate.training import predict_probabilities
from medmark.components.suspects.answer_store import StoredSuspect
from medmark.components.suspects.contract import Contract
from medmark.components.suspects.http import Connection
from medmark.components.suspects.segmenters import open_segmenter
from medmark.components.suspects.suspects import open_suspect
from medmark.components.tracking.registry import onnx_graph
from medmark.components.verification.interrogation import interrogate
from v2_server import COMMAND, MLServer

CLASSES = ["normal", "pneumonia"]
CONNECTION = Connection(batch_size=4, timeout=20.0, retries=2, backoff=0.05)


@pytest.fixture(scope="module")
def queries():
    clean, marked, control = torch.rand(3, 12, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    return QuerySet(clean, marked, control, [f"image {i}" for i in range(12)], target=1)


@pytest.fixture(scope="module")
def classifier(queries, tmp_path_factory):
    """A medmark classifier, read back from its file. Untrained, but made to answer differently to different images."""
    model, path = build("small_cnn", num_classes=2, size=64, seed=5).eval(), tmp_path_factory.mktemp("model") / "m"
    with torch.no_grad():
        head = model.network.head[1]
        head.weight *= 5000
        head.bias -= model(queries.clean).mean(dim=0)
    save_classifier(model, path)
    return load_classifier(path)


class TwoLogits(torch.nn.Module):
    """An untrained segmenter, as many are served: a logit for the background and one for the foreground."""

    def __init__(self):
        super().__init__()
        self.segmenter = build_segmenter("unet", channels=1, size=64, seed=3).eval()

    def forward(self, images):
        logits = self.segmenter(images)
        return torch.cat([torch.zeros_like(logits), 3 * logits], dim=1)


@pytest.fixture(scope="module")
def server(classifier, tmp_path_factory):
    """Serves the classifier twice: ``chest`` answers with probabilities, ``names`` with class names; and a segmenter, ``lungs``."""
    if not COMMAND.is_file():
        pytest.skip(f"no MLServer at {COMMAND}: set MEDMARK_MLSERVER to run this test")
    folder = tmp_path_factory.mktemp("mlserver")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    free = ({0: torch.export.Dim("n")},)
    model, example = folder / "m.onnx", torch.zeros(2, 1, 64, 64)
    torch.onnx.export(classifier, (example,), str(model), dynamo=True, verbose=False, dynamic_shapes=free)
    lungs = folder / "lungs.onnx"
    lungs.write_bytes(onnx_graph(TwoLogits(), (1, 64, 64), "x", "logits").SerializeToString())
    models = {"chest": (model, None), "names": (model, CLASSES), "lungs": (lungs, None)}
    with MLServer(folder, models, size=64, classes=2, segmenters=("lungs",)) as server:
        yield server


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    monkeypatch.delenv("MEDMARK_SUSPECT_TOKEN", raising=False)


def connect(server, model="chest", contract=None):
    return open_suspect(server.url(model), contract or Contract(), class_names=CLASSES, connection=CONNECTION)


def test_an_audit_over_http_sees_what_a_local_one_sees(server, classifier, queries):
    local = interrogate(lambda images: predict_probabilities(classifier, images), queries)
    remote = interrogate(connect(server), queries)
    for name in ("p_clean", "p_marked", "p_control"):
        np.testing.assert_allclose(getattr(remote, name), getattr(local, name), atol=1e-5)
    assert np.ptp(local.p_clean) > 0.1
    np.testing.assert_array_equal(remote.is_marked, local.is_marked)


def test_a_server_that_gives_names_only(server, classifier, queries):
    suspect = connect(server, "names", Contract(answers="labels"))
    assert suspect.label_only
    expected = np.eye(2)[predict_probabilities(classifier, queries.clean).argmax(axis=1)]
    assert 0 < expected[:, 0].sum() < len(expected)
    np.testing.assert_array_equal(suspect(queries.clean), expected)


@pytest.mark.parametrize(
    ("model", "contract", "why"),
    [
        ("nothing", Contract(), "status 404.*not found"),
        ("chest", Contract(size=32), "size 64, the contract says 32"),
        ("chest", Contract(answers="labels"), "answers with float32"),
        ("names", Contract(), "answers with str"),
    ],
)
def test_what_does_not_fit_is_refused(server, model, contract, why):
    with pytest.raises(MedmarkError, match=why):
        connect(server, model, contract)


def test_answers_outlive_the_server(server, classifier, queries, tmp_path):
    with StoredSuspect(connect(server), tmp_path / "answers.db") as suspect:
        suspect(queries.clean[:8])
        try:
            server.kill()
            with pytest.raises(MedmarkError, match="no answer after 3 tries"):
                suspect(queries.clean)
        finally:
            server.start()
        np.testing.assert_allclose(suspect(queries.clean), predict_probabilities(classifier, queries.clean), atol=1e-5)
        assert suspect.asked == 12
    with StoredSuspect(connect(server), tmp_path / "answers.db") as suspect:
        suspect(queries.clean)
        assert (suspect.asked, suspect.reused) == (0, 12)


def test_a_segmenter_behind_http_gives_maps(server, queries):
    suspect = open_segmenter(
        server.url("lungs"), Contract(), channels=1, class_names=["background", "lungs"], connection=CONNECTION
    )
    try:
        maps = suspect(queries.clean)
    finally:
        suspect.close()
    with torch.no_grad():
        wanted = torch.softmax(TwoLogits()(queries.clean), dim=1)[:, 1]
    np.testing.assert_allclose(maps, wanted, atol=1e-5)
    assert maps.std() > 0.01
    with pytest.raises(MedmarkError, match="no map"):
        open_segmenter(
            server.url("chest"), Contract(), channels=1, class_names=["background", "lungs"], connection=CONNECTION
        )
