"""The image of the steps: what a cluster asks of it, and that a release does not depend on where its steps run.

``make images-test`` runs this, with ``MEDMARK_TEST_IMAGE``.
"""

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from medmark.components.dataset.release import Release
from medmark.components.storage.store import Store
from medmark.pipelines.mark_release.pipeline import mark_release
from medmark.pipelines.services import DROPS

IMAGE = os.environ["MEDMARK_TEST_IMAGE"]
LOCKS = Path(__file__).parents[2] / "images" / "locks"


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def config() -> dict:
    return json.loads(docker("image", "inspect", IMAGE))[0]["Config"]


def test_the_user_is_a_number_and_not_root(config):
    assert re.fullmatch(r"[1-9]\d*:0", config["User"])


def test_labels_name_the_source(config):
    labels = config["Labels"]
    assert re.fullmatch(r"[0-9a-f]{40}", labels["org.opencontainers.image.revision"])
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_packages_are_those_of_the_locks():
    listed = docker("run", "--rm", "--network=none", IMAGE, "pip", "list", "--format=json")
    installed = {_normal(package["name"]): package["version"] for package in json.loads(listed)}
    locked = {}
    for file in LOCKS.glob("*.lock"):
        locked |= {_normal(n): v for n, v in re.findall(r"^([\w.-]+)==(\S+)", file.read_text(), re.M)}
    assert {name: installed.get(name) for name in locked} == locked
    assert installed.keys() - locked.keys() == {"medmark", "pip"}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_home_and_work_are_of_group_0():
    check = "touch $HOME/x x && mkdir -p /tmp/cache && id -u"
    assert docker("run", "--rm", "--network=none", "--user=23456:0", IMAGE, "sh", "-c", check).strip() == "23456"


def test_a_release_is_the_same_in_containers_and_in_processes(cluster, services, source, tiny, tmp_path):
    place = f"s3://{DROPS}/images"
    Store.from_environment("evidence").upload(source, place)
    options = {"name": "images", "patient_key": "ab" * 32}
    given = {
        "source": place,
        "profile": "smoke",
        "overrides": tiny.settings,
        "ingest_options": options,
        "name": "images",
    }
    given |= {"seed": str(tiny.seed), "for_figures": True}
    in_containers = cluster.start(mark_release, tmp_path / "containers", **given)
    key = json.loads(services.credentials["evidence"].read_bytes())
    secrets = {"medmark-run": cluster.secrets["medmark-run"], "medmark-s3-evidence": key}
    here = replace(cluster, docker=None, secrets=secrets, folder=tmp_path / "here")
    in_processes = here.start(mark_release, tmp_path / "processes", **given)
    digests = {Release(made["release"]).digest for made in (in_containers, in_processes)}
    assert len(digests) == 1
