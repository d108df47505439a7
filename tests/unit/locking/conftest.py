"""A locked release that all tests of the room share."""

from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from medmark.components.dataset.fundus_phantoms import make_fundus_phantoms
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.release import Release
from medmark.components.locking.certificate import sign_certificates
from medmark.components.locking.lock import LockOptions, lock_release
from medmark.components.locking.logo import text_logos
from medmark.components.locking.search import SearchConfig
from medmark.components.surrogate.models import train_models
from medmark.components.surrogate.training import TrainConfig


def pem(key: X25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.fixture(scope="session")
def locked(tmp_path_factory):
    """A release of 240 fundus phantoms of 64 px, a classifier, and both locked; only read."""
    folder = tmp_path_factory.mktemp("locked")
    make_fundus_phantoms(folder / "raw", count=240, size=64, seed=2)
    clean = ingest(folder / "raw", folder / "clean", image_mode="RGB", lesions=True, seed=1, patient_key="phantoms")
    train_models(clean.path, folder / "models", configs=[TrainConfig("net", size=64, epochs=25, seed=1)])
    made = SimpleNamespace(
        folder=folder,
        clean=clean,
        models=folder / "models",
        owner=X25519PrivateKey.generate(),
        clinic=X25519PrivateKey.generate(),
        stranger=X25519PrivateKey.generate(),
        signer=Ed25519PrivateKey.generate(),
        release=folder / "release",
        evidence=folder / "evidence",
    )
    made.options = LockOptions(
        version="1-locked",
        logos=text_logos("NOT FOR ANALYSIS"),
        search=SearchConfig(population=10, generations=4, scales=(0.2, 0.3, 0.4)),
        mark_key="5a" * 32,
        seed=7,
        recipients={"owner": pem(made.owner), "clinic": pem(made.clinic)},
    )
    made.said = lock_release(clean.path, made.models, made.release, made.evidence, made.options)
    sign_certificates(made.release, made.evidence, made.signer)
    made.records = {record.image_id: record for record in Release(made.release).records()}
    return made
