import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch
from urllib.parse import urlsplit

import mlflow
import numpy as np
import onnx
import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.queries import QuerySet
from medmark.components.surrogate.networks import build
from medmark.components.surrogate.training import predict_probabilities
from medmark.components.suspects import model_files
from medmark.components.suspects.contract import Contract
from medmark.components.suspects.http import Connection
from medmark.components.suspects.suspects import SuspectModel, open_suspect
from medmark.components.verification.interrogation import interrogate
from scipy.special import expit, softmax

CLASSES = ["normal", "pneumonia"]
LOGITS = Contract(answers="logits")


@pytest.fixture(scope="module")
def images():
    return torch.rand(5, 1, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def classifier():
    model = build("small_cnn", num_classes=2, size=32, seed=3).eval().requires_grad_(False)
    model.network.head[1].weight *= 2000  # an untrained network answers nearly alike to everything
    return model


def export(model, path, *, channels=1, size=32, batch=2, free=True):
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    example = torch.zeros(batch, channels, size, size)
    torch.onnx.export(
        model,
        (example,),
        str(path),
        dynamo=True,
        verbose=False,
        input_names=["x"],
        output_names=["y"],
        dynamic_shapes=({0: torch.export.Dim("n")},) if free else None,
    )
    return path


@pytest.fixture(scope="module")
def exported(classifier, tmp_path_factory):
    """With its weights in an external file, as torch writes it."""
    path = export(classifier, tmp_path_factory.mktemp("onnx") / "m.onnx")
    assert (path.parent / "m.onnx.data").is_file()
    return path


def graph(tmp_path, text, name="m.onnx"):
    """An ONNX file from ONNX's own text form: what stands between the braces of a graph."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> agraph {text}')
    onnx.save(model, str(tmp_path / name))
    return str(tmp_path / name)


IDENTITY = "(float[N,1,4,4] x) => (float[N,2] y) { f = Flatten(x)  w = Constant<value = float[16,2] {%s}>()  y = MatMul(f, w) }"
FIRST_TWO = IDENTITY % ", ".join(["1", "0", "0", "1"] + ["0"] * 28)  # y = the first two pixels


def pixels(*rows, size=4):
    """Images whose first pixels are given."""
    images = torch.zeros(len(rows), 1, size, size)
    for image, row in zip(images, rows, strict=True):
        image.view(-1)[: len(row)] = torch.tensor(row)
    return images


def test_an_exported_network_answers_as_in_torch(exported, classifier, images):
    suspect = open_suspect(str(exported), LOGITS, class_names=CLASSES)
    assert (suspect.size, suspect.label_only, suspect.name) == (32, False, str(exported))
    many = images.repeat(9, 1, 1, 1)  # more than a batch
    np.testing.assert_allclose(suspect(many), predict_probabilities(classifier, many), atol=1e-6)
    queries = QuerySet(many, 1 - many, many, [str(i) for i in range(len(many))], target=1)
    answers, local = interrogate(suspect, queries), predict_probabilities(classifier, 1 - many)
    np.testing.assert_allclose(answers.p_marked, local[:, 1], atol=1e-6)


def test_the_other_order_of_classes_is_put_right(exported, classifier, images):
    swapped = open_suspect(str(exported), replace(LOGITS, classes=("pneumonia", "normal")), class_names=CLASSES)
    np.testing.assert_allclose(swapped(images), predict_probabilities(classifier, images)[:, ::-1], atol=1e-6)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_fixed_batch_size_is_filled_up(classifier, images, tmp_path, batch):
    path = export(classifier, tmp_path / "m.onnx", batch=batch, free=False)
    suspect = open_suspect(str(path), LOGITS, class_names=CLASSES)
    assert suspect.batch_size == batch
    np.testing.assert_allclose(suspect(images), predict_probabilities(classifier, images), atol=1e-6)


def test_images_are_normalised_and_repeated_as_the_contract_says(tmp_path):
    """The second probability is the third channel's first pixel, as the model sees it."""
    path = graph(
        tmp_path,
        """(float[N,3,4,4] x) => (float[N,1] y) {
            f = Flatten(x)  at = Constant<value = int64[1] {32}>()  y = Gather<axis=1>(f, at) }""",
    )
    seen = open_suspect(path, Contract(scale=255.0, mean=20.0, std=500.0), class_names=CLASSES)(pixels([0.2]))
    np.testing.assert_allclose(seen, [[1 - 31 / 500, 31 / 500]], atol=1e-6)


def test_probabilities_logits_and_one_sigmoid(tmp_path):
    path = graph(tmp_path, FIRST_TWO)
    asked = pixels([0.25, 0.75], [1.0, 0.0])
    np.testing.assert_allclose(open_suspect(path, Contract(), class_names=CLASSES)(asked), [[0.25, 0.75], [1, 0]])
    logits = open_suspect(path, LOGITS, class_names=CLASSES)(asked)
    np.testing.assert_allclose(logits, softmax([[0.25, 0.75], [1, 0]], axis=1), atol=1e-7)
    for shape, axes in (("N,1", ""), ("N", "axes = Constant<value = int64[1] {1}>()  ")):
        last = "y = Squeeze(s, axes)" if axes else "y = Identity(s)"
        one = graph(
            tmp_path,
            f"(float[N,1,4,4] x) => (float[{shape}] y) {{ f = Flatten(x)  at = Constant<value = int64[1] {{0}}>()"
            f"  s = Gather<axis=1>(f, at)  {axes}{last} }}",
        )
        np.testing.assert_allclose(open_suspect(one, Contract(), class_names=CLASSES)(asked), [[0.75, 0.25], [0, 1]])
        second = expit([0.25, 1.0])
        found = open_suspect(one, LOGITS, class_names=CLASSES)(asked)
        np.testing.assert_allclose(found, np.stack([1 - second, second], axis=1), atol=1e-7)
        with pytest.raises(MedmarkError, match="one number for each of 3 classes"):
            open_suspect(one, Contract(), class_names=[*CLASSES, "other"])


def test_labels_are_one_hot_rows(tmp_path):
    """y is the index of the larger of the first three pixels."""
    cut = "s = Constant<value = int64[1] {0}>()  e = Constant<value = int64[1] {3}>()  a = Constant<value = int64[1] {1}>()"
    path = graph(
        tmp_path,
        "(float[N,1,4,4] x) => (int64[N] y) { f = Flatten(x) "
        + cut
        + " p = Slice(f, s, e, a)  y = ArgMax<axis=1, keepdims=0>(p) }",
    )
    suspect = open_suspect(path, Contract(answers="labels", classes=("pneumonia", "normal")), class_names=CLASSES)
    assert suspect.label_only
    assert suspect(pixels([0.9, 0.1], [0.1, 0.9])).tolist() == [[0, 1], [1, 0]]
    with pytest.raises(MedmarkError, match="unknown label 2"):
        suspect(pixels([0.0, 0.0, 1.0]))
    with pytest.raises(MedmarkError, match="answers with int64, the contract says probabilities"):
        open_suspect(path, Contract(), class_names=CLASSES)
    with pytest.raises(MedmarkError, match="answers with float32, the contract says labels"):
        open_suspect(graph(tmp_path, FIRST_TWO), Contract(answers="labels"), class_names=CLASSES)


@pytest.mark.parametrize(
    ("contract", "classes", "why"),
    [
        (Contract(size=8), CLASSES, "size 4, the contract says 8"),
        (Contract(channels=3), CLASSES, "channels 1, the contract says 3"),
        (Contract(input="image"), CLASSES, "inputs are 'x', not 'image'"),
        (Contract(output="p"), CLASSES, "outputs are 'y', not 'p'"),
        (Contract(), [*CLASSES, "other"], "one number for each of 3 classes"),
        (Contract(classes=("normal", "tuberculosis")), CLASSES, "not those of the evidence"),
        (Contract(classes=("normal",)), CLASSES, "not those of the evidence"),
    ],
)
def test_what_the_model_declares_must_fit_the_contract(tmp_path, contract, classes, why):
    with pytest.raises(MedmarkError, match=why) as refused:
        open_suspect(graph(tmp_path, FIRST_TWO), contract, class_names=classes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("(float[N,1,4,8] x) => (float[N,1,4,8] y) { y = Identity(x) }", "side, side"),
        ("(float[N,4,4] x) => (float[N,4,4] y) { y = Identity(x) }", "side, side"),
        ("(float[N,2,4,4] x) => (float[N,2,4,4] y) { y = Identity(x) }", "1 or 3 channels"),
        ("(float[N,1,H,W] x) => (float[N,1,H,W] y) { y = Identity(x) }", "leaves the size of its input free"),
        ("(float[100000,1,4,4] x) => (float[100000,16] y) { y = Flatten(x) }", "100000 images at once"),
        ("(float[1024,3,2048,2048] x) => (float[1024,N] y) { y = Flatten(x) }", "bytes are asked about at once"),
        ("(uint8[N,1,4,4] x) => (float[N,16] y) { f = Flatten(x)  y = Cast<to=1>(f) }", "takes floats"),
        ("(float[N,1,4,4] x, float[N,2] z) => (float[N,2] y) { y = Identity(z) }", "inputs are 'x', 'z'"),
        ("(float[N,1,4,4] x) => (float[N,16] y, float[N,16] z) { y = Flatten(x)  z = Flatten(x) }", "name the one"),
    ],
)
def test_models_that_cannot_be_asked_are_refused(tmp_path, text, why):
    with pytest.raises(MedmarkError, match=why):
        open_suspect(graph(tmp_path, text), Contract(), class_names=CLASSES)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ((0.5, 0.6), "does not sum to 1"),
        ((1.5, -0.5), "negative"),
        ((float("nan"), 1.0), "not finite"),
        ((float("inf"), 1.0), "not finite"),
    ],
)
def test_answers_that_are_no_probabilities_are_refused(tmp_path, row, why):
    values = ", ".join({"nan": "0", "inf": "0"}.get(str(v), str(v)) for v in row)
    text = "(float[N,1,4,4] x) => (float[N,2] y) { z = Flatten(x)  at = Constant<value = int64[2] {0, 1}>()"
    text += f"  g = Gather<axis=1>(z, at)  c = Constant<value = float[2] {{{values}}}>()  y = Add(g, c) }}"
    suspect = open_suspect(graph(tmp_path, text), Contract(), class_names=CLASSES)
    asked = pixels([v if not np.isfinite(v) else 0.0 for v in row])
    with pytest.raises(MedmarkError, match=why):
        suspect(asked)


class Undeclared:
    """A backend that says nothing about itself and always answers the same."""

    where, digest, inputs, outputs, batch_size, description = "undeclared", "", {}, {}, 8, None

    def __init__(self, answer):
        self.answer = answer

    def ask(self, images, input, output):
        return self.answer


@pytest.mark.parametrize("known", [{}, {"input": "x"}, {"input": "x", "size": 4}, {"size": 4, "channels": 1}])
def test_what_nobody_declares_must_be_given(known):
    with pytest.raises(MedmarkError, match="give the"):
        SuspectModel(Undeclared(np.zeros((1, 2))), Contract(**known), CLASSES)


def test_wrong_images_and_wrong_answer_shapes():
    def suspect(answer, names=CLASSES):
        return SuspectModel(Undeclared(answer), Contract(size=4, channels=1, input="x"), names)

    with pytest.raises(MedmarkError, match=r"shape \(3, 16\); \(3, 2\) is needed"):
        suspect(np.zeros((3, 16)))(pixels([1.0], [0.0], [0.0]))
    with pytest.raises(MedmarkError, match=r"shape \(3, 1\); \(3, 3\) is needed"):
        suspect(np.zeros((3, 1)), [*CLASSES, "other"])(pixels([1.0], [0.0], [0.0]))
    for answer in (np.zeros((16, 3)), np.float32(0.5)):
        with pytest.raises(MedmarkError, match="to 3 images; one row an image"):
            suspect(answer)(pixels([1.0], [0.0], [0.0]))
    for wrong in (torch.rand(2, 1, 8, 8), torch.rand(2, 4, 4), torch.rand(2, 1, 4, 4).double(), torch.rand(0, 1, 4, 4)):
        with pytest.raises(MedmarkError, match="is asked about"):
            suspect(np.zeros((1, 2)))(wrong)


def test_a_model_that_fails_says_so_in_one_line(tmp_path):
    path = graph(
        tmp_path,
        """(float[N,1,4,4] x) => (float[A,B] y) {
            s = Constant<value = int64[2] {7, 2}>()  y = Reshape(x, s) }""",
    )
    with pytest.raises(MedmarkError, match="fails on images of shape") as refused:
        open_suspect(path, Contract(), class_names=CLASSES)(pixels([1.0]))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"PK\x03\x04 not onnx", b"\xff" * 200])
def test_files_that_are_no_onnx_are_refused(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(MedmarkError, match="export the model again") as refused:
        open_suspect(str(tmp_path / "m.onnx"), Contract(), class_names=CLASSES)
    assert "\n" not in str(refused.value)


def test_a_cut_file_is_refused(exported, tmp_path):
    (tmp_path / "m.onnx").write_bytes(exported.read_bytes()[:-500])
    with pytest.raises(MedmarkError, match="export the model again"):
        open_suspect(str(tmp_path / "m.onnx"), LOGITS, class_names=CLASSES)


def external(tmp_path, location):
    """A model whose only weight lies at ``location``, seen from the model's folder."""
    folder = tmp_path / "model"
    folder.mkdir()
    path = graph(folder, FIRST_TWO)
    model = onnx.load(path)
    weight = model.graph.node[1].attribute[0].t
    weight.raw_data = np.array(weight.float_data, dtype="<f4").tobytes()
    del weight.float_data[:]
    weight.name = "w"
    onnx.external_data_helper.set_external_data(weight, location=location)
    (tmp_path / "secret").write_bytes(weight.raw_data)
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "way").symlink_to(tmp_path)
    weight.ClearField("raw_data")
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


@pytest.mark.parametrize("location", ["../secret", "{}/secret", "link", "way/secret", "missing", "."])
def test_external_data_stays_in_the_models_folder(tmp_path, location):
    path = external(tmp_path, location.format(tmp_path))
    with pytest.raises(MedmarkError, match="no file in its own folder"):
        open_suspect(str(path), Contract(), class_names=CLASSES)


def test_size_is_bounded_with_external_data(exported, monkeypatch):
    monkeypatch.setattr(model_files, "MAX_BYTES", exported.stat().st_size + 10)
    with pytest.raises(MedmarkError, match="export a smaller model"):
        open_suspect(str(exported), LOGITS, class_names=CLASSES)


def test_operators_that_onnxruntime_does_not_have_are_refused(tmp_path):
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20, "evil" : 1]> agraph (float[N,1,4,4] x) => (float[N,2] y)'
        "{ y = evil.Run(x) }"
    )
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(MedmarkError, match="no usable ONNX model"):
        open_suspect(str(tmp_path / "m.onnx"), Contract(), class_names=CLASSES)


@pytest.mark.parametrize("target", ["m.pkl", "m.pt", "ftp://host/m", "somewhere"])
def test_other_kinds_of_suspects_are_refused(target):
    with pytest.raises(MedmarkError, match="export the model to ONNX"):
        open_suspect(target, Contract(), class_names=CLASSES)


@pytest.mark.parametrize(
    "values", [{"size": 0}, {"channels": 2}, {"std": 0}, {"mean": float("nan")}, {"scale": 100}, {"answers": "scores"}]
)
def test_contracts_are_checked(values):
    with pytest.raises(MedmarkError, match="give"):
        Contract(**values)


def test_identity_follows_model_and_contract(exported, classifier, tmp_path):
    def identity(path, contract=LOGITS, names=CLASSES):
        return open_suspect(str(path), contract, class_names=names).identity

    (tmp_path / "copy.onnx").write_bytes(exported.read_bytes())
    (tmp_path / "m.onnx.data").write_bytes((exported.parent / "m.onnx.data").read_bytes())
    same = identity(exported)
    assert identity(tmp_path / "copy.onnx") == same
    assert identity(exported, replace(LOGITS, size=32, channels=1, classes=tuple(CLASSES))) == same
    others = {
        identity(exported, replace(LOGITS, mean=0.5)),
        identity(exported, replace(LOGITS, classes=("pneumonia", "normal"))),
        identity(exported, names=CLASSES[::-1]),
    }
    weights = bytearray((tmp_path / "m.onnx.data").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "m.onnx.data").write_bytes(weights)
    others.add(identity(tmp_path / "copy.onnx"))
    assert len(others | {same}) == 5


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """A registry of its own; returns its URI."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with patch.dict(os.environ):  # MLflow hands its settings on to processes that other tests start
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        mlflow.set_experiment(experiment_id=mlflow.create_experiment("e", artifact_location=(folder / "a").as_uri()))
        yield uri
        mlflow.set_tracking_uri(None)  # or it would count more than the variable that other tests set
        mlflow.set_registry_uri(None)


def test_a_registered_onnx_model_is_asked(registry, exported, classifier, images, tmp_path, monkeypatch):
    with mlflow.start_run():
        mlflow.onnx.log_model(onnx.load(str(exported)), name="m", registered_model_name="chest", pip_requirements=[])
    mlflow.MlflowClient().set_registered_model_alias("chest", "prod", "1")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    suspects = [
        open_suspect(f"models:/chest{v}", LOGITS, class_names=CLASSES, registry=registry) for v in ("/1", "@prod")
    ]
    for suspect in suspects:
        np.testing.assert_allclose(suspect(images), predict_probabilities(classifier, images), atol=1e-6)
    assert suspects[0].identity == suspects[1].identity
    assert suspects[1].name == "models:/chest@prod"
    for suspect in suspects:
        suspect.close()
    assert not list(scratch.iterdir())


class Trap(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input):
        raise AssertionError("a pickled model was run")


def test_other_flavours_are_refused(registry, tmp_path):
    with mlflow.start_run():
        mlflow.pyfunc.log_model(name="m", python_model=Trap(), registered_model_name="pickled", pip_requirements=[])
    with pytest.raises(MedmarkError, match="has the flavours python_function; .* export the model to ONNX"):
        open_suspect("models:/pickled/1", LOGITS, class_names=CLASSES, registry=registry)


@pytest.mark.parametrize("target", ["models:/chest/7", "models:/nothing@prod", "models:/"])
def test_models_that_are_not_registered_are_refused(registry, target):
    with pytest.raises(MedmarkError, match="check its name and version") as refused:
        open_suspect(target, LOGITS, class_names=CLASSES, registry=registry)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "[1]", "flavors: 3", "flavors: {onnx: {data: ../../m.onnx}}", "a: b: c"])
def test_hostile_descriptions_are_refused(registry, text):
    with mlflow.start_run():
        logged = mlflow.onnx.log_model(
            onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> agraph {FIRST_TWO}'),
            name="m",
            registered_model_name="hostile",
            pip_requirements=[],  # MLflow would load the model in another process to find them
        )
    folder = Path(urlsplit(mlflow.MlflowClient().get_logged_model(logged.model_id).artifact_location).path)
    (folder / "MLmodel").write_text(text)
    with pytest.raises(MedmarkError, match="log the model again"):
        open_suspect(
            f"models:/hostile/{logged.registered_model_version}", Contract(), class_names=CLASSES, registry=registry
        )


@pytest.mark.parametrize("kind", [Contract, Connection])
def test_unknown_fields_from_a_pipeline_are_refused(kind):
    with pytest.raises(MedmarkError, match="unknown field of the suspects' con.*: 'sizes'; use"):
        kind.from_json({"sizes": 3})


def test_a_contract_comes_back_from_json():
    contract = Contract(size=32, answers="logits", classes=("a", "b"))
    assert Contract.from_json(json.loads(json.dumps(contract.to_json()))) == contract
    assert Contract.from_json({}) == Contract()
