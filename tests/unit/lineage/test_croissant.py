import json

import mlcroissant as mlc
import numpy as np
import pytest
from chain_case import make_chain
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from medmark.components.base.digests import file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.release import Release
from medmark.components.lineage.croissant import write_card


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    return make_chain(tmp_path_factory.mktemp("chain"), Ed25519PrivateKey.generate(), 3, committed=False)


@pytest.fixture
def card(chain):
    """Path for a card beside the shards."""
    path = chain.head / "croissant.json"
    yield path
    path.unlink(missing_ok=True)


@pytest.mark.parametrize("url", [None, "https://example.org/releases"])
def test_loaders_read_the_release_by_its_card(chain, card, url):
    write_card(chain.head, card, url=url, license_="CC-BY-4.0")
    loaded = mlc.Dataset(str(card))
    assert not loaded.metadata.ctx.issues.errors
    records = {one.image_id: one for one in Release(chain.head).records()}
    read = list(loaded.records("images"))
    assert len(read) == len(records)
    for row in read:
        one = records[row["images/image_id"].decode()]
        assert row["images/label"] == one.label and row["images/split"].decode() == one.split
        assert np.array_equal(np.asarray(row["images/image"]), decode_png(one.image))
    assert [row["classes/name"] for row in loaded.records("classes")] == ["normal", "pneumonia"]
    splits = {row["splits/name"]: row["splits/images"] for row in loaded.records("splits")}
    assert splits == {split: sum(counts.values()) for split, counts in Release(chain.head).counts.items()}


def test_the_card_names_every_shard_and_everything_before(chain, card):
    made = write_card(chain.head, card)
    assert json.loads(card.read_bytes()) == made and made["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    shards = {one["contentUrl"]: one["sha256"] for one in made["distribution"] if one["@type"] == "cr:FileObject"}
    assert shards == {f"shards/{p.name}": file_sha256(p) for p in (chain.head / "shards").iterdir()}
    clean = Release(chain.releases[0]).parent
    before = [f"urn:medmark:release:sha256:{one}" for one in (chain.releases[1].name, chain.releases[0].name, clean)]
    assert made["isBasedOn"] == [one["@id"] for one in made["prov:wasDerivedFrom"]] == before
    assert made["version"] == "3" and "license" not in made and "url" not in made


def test_an_address_is_used_for_every_file(chain, card):
    made = write_card(chain.head, card, url="https://example.org/r/", license_="https://example.org/licence")
    urls = [one["contentUrl"] for one in made["distribution"] if "contentUrl" in one]
    assert all(url.startswith("https://example.org/r/shards/part-") for url in urls)
    assert made["license"] == "https://example.org/licence"


@pytest.mark.parametrize(
    "url", ["file:///etc", "https://", "https://user:secret@example.org/", "https://a/?b", "x", "https://a b"]
)
def test_an_address_that_is_none_is_refused(chain, card, url):
    with pytest.raises(MedmarkError, match="address is malformed") as refused:
        write_card(chain.head, card, url=url)
    assert "secret" not in str(refused.value) and not card.exists()


def test_no_card_is_written_over_and_a_changed_parent_noticed(chain, card):
    write_card(chain.head, card)
    with pytest.raises(MedmarkError, match="already there"):
        write_card(chain.head, card)
    card.unlink()
    manifest = chain.releases[0] / "release.json"
    data = manifest.read_bytes()
    manifest.write_bytes(data.replace(b'"chain"', b'"other"'))
    try:
        with pytest.raises(MedmarkError, match=r"release\.json changed"):
            write_card(chain.head, card)
    finally:
        manifest.write_bytes(data)
