"""Which MLflow gets the runs (``MLFLOW_TRACKING_URI``, ``MLFLOW_RUN_ID``), and how quiet its client is."""

from __future__ import annotations

import logging
import os
from pathlib import Path

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # a server that is away would otherwise be retried for minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",  # seconds
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def quiet() -> None:
    """MLflow without telemetry, with few retries and few words; a value that the user set is kept."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # announces every table it makes


def take_secret() -> None:
    """Uses the MLflow that a Kubernetes secret names, for this process and those that it starts.

    The secret comes as ``MEDMARK_MLFLOW_TRACKING_URI``, ``_USERNAME``, ``_PASSWORD`` and ``_TOKEN``. Nothing of it is used if
    ``MLFLOW_TRACKING_URI`` is set already, as by KFP's MLflow plugin: credentials of one server must not reach another.
    """
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return
    for name in [name for name in os.environ if name.startswith("MEDMARK_MLFLOW_TRACKING_")]:
        os.environ[name.removeprefix("MEDMARK_")] = os.environ[name]


def is_named() -> bool:
    """Whether the environment says where runs go."""
    return bool(os.environ.get("MLFLOW_RUN_ID") or os.environ.get("MLFLOW_TRACKING_URI"))


def tracking_uri(folder: Path) -> str:
    """Address of MLflow: what the user set, else a SQLite file in a pipeline's folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'mlflow.db').resolve()}"
