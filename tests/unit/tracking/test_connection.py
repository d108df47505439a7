import os

import pytest
from medmark.components.tracking.connection import is_named, take_secret

SECRET = {"URI": "https://mlflow.example", "TOKEN": "t0k3n"}


@pytest.fixture
def secret(monkeypatch):
    monkeypatch.setattr(os, "environ", {f"MEDMARK_MLFLOW_TRACKING_{name}": value for name, value in SECRET.items()})


def test_a_server_that_a_secret_names_is_used(secret):
    assert not is_named()
    take_secret()
    assert is_named()
    assert {name: os.environ[f"MLFLOW_TRACKING_{name}"] for name in SECRET} == SECRET


def test_kubeflows_server_wins_and_gets_no_credentials_of_another(secret):
    os.environ["MLFLOW_TRACKING_URI"] = "https://kubeflow.example"
    take_secret()
    assert os.environ["MLFLOW_TRACKING_URI"] == "https://kubeflow.example" and "MLFLOW_TRACKING_TOKEN" not in os.environ
