"""Secrets that Kubernetes gives the steps of a compiled pipeline as environment variables.

The secrets are those of the namespace. One that is missing, or lacks a key, is left out, and the step then says what it lacks. On one
machine these settings have no effect: steps see the environment of the command.

======================  ==========================================================  ==========================
secret                  keys                                                        opens
======================  ==========================================================  ==========================
``medmark-s3``          endpoint, access_key, secret_key, region, insecure          releases
``medmark-s3-evidence`` endpoint, access_key, secret_key, region                    evidence, drops
``medmark-run``         key                                                         the secrets that a run draws
``medmark-signing``     medmark.key, passphrase                                     the owner's signing key
``medmark-suspect``     token                                                       a suspect's endpoint
``medmark-mlflow``      tracking_uri, username, password, token                     MLflow
======================  ==========================================================  ==========================

KFP's MLflow plugin injects ``MLFLOW_`` variables into every pod, and a pod with one name twice is refused. So medmark's own have other
names, and the plugin's win: :func:`medmark.components.tracking.connection.take_secret`.
"""

from kfp import kubernetes
from kfp.dsl import PipelineTask

RELEASES = {
    "medmark-s3": {
        **{key: f"MEDMARK_S3_{key.upper()}" for key in ("endpoint", "access_key", "secret_key", "region")},
        "insecure": "MEDMARK_S3_INSECURE",
    }
}
EVIDENCE = {
    "medmark-s3": {"insecure": "MEDMARK_S3_INSECURE"},
    "medmark-s3-evidence": {
        key: f"MEDMARK_S3_EVIDENCE_{key.upper()}" for key in ("endpoint", "access_key", "secret_key", "region")
    },
}
RUN = {"medmark-run": {"key": "MEDMARK_RUN_KEY"}}
SIGNING = {"medmark-signing": {"medmark.key": "MEDMARK_SIGNING_KEY", "passphrase": "MEDMARK_KEY_PASSPHRASE"}}
SUSPECT = {"medmark-suspect": {"token": "MEDMARK_SUSPECT_TOKEN"}}
MLFLOW = {
    "medmark-mlflow": {key: f"MEDMARK_MLFLOW_TRACKING_{key.upper()}" for key in ("username", "password", "token")}
    | {"tracking_uri": "MEDMARK_MLFLOW_TRACKING_URI"}
}


def give(task: PipelineTask, *secrets: dict[str, dict[str, str]]) -> None:
    """Lets a step read secrets.

    Args:
        task: the step.
        secrets: constants of this file: environment variable by key, by name of the secret.
    """
    merged: dict[str, dict[str, str]] = {}
    for secret in secrets:
        for name, keys in secret.items():
            merged[name] = merged.get(name, {}) | keys
    for name, keys in merged.items():
        kubernetes.use_secret_as_env(task, secret_name=name, secret_key_to_env=keys, optional=True)
