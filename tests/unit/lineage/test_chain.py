"""Chains that were well signed and say what is not true; hostile ones; and what is checked on request."""

import base64
import hashlib
import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from chain_case import PARAMETERS, SEED, changed, event, make_chain, publish, record, write_release
from commitment_case import FIXTURES
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.release import Release
from medmark.components.lineage.chain import verify_chain
from medmark.components.lineage.dsse import sign
from medmark.components.lineage.graph import lineage_tree, write_lineage_report
from medmark.components.lineage.keys import key_id, load_public
from medmark.components.lineage.record import PREDICATE_TYPE, read_lineage, sign_lineage, verify_lineage
from rich.console import Console

KEY, OTHER_KEY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key()
FROZEN = FIXTURES / "lineage-v1"


@pytest.fixture
def chain(tmp_path):
    return make_chain(tmp_path / "chain", KEY, 3)


def first_broken(chain, **options) -> tuple[str, str]:
    """File and reason of the first object that does not hold."""
    result = verify_chain(chain.head, PUBLIC, **options)
    assert not result["holds"] and result["broken"], "nothing was noticed"
    json.dumps(result)
    return result["broken"]["path"].partition("/")[2], result["broken"]["says"]


def records_of(release: Path) -> dict:
    return {one.image_id: one for one in Release(release).records()}


def next_release(chain, records: dict, **changes) -> None:
    """An update as its owner may make and sign it; ``changes`` go over the true ones of adding nothing."""
    parent = Release(chain.head)
    before = parent.read_changes() or {"tombstones": []}
    true = {
        "schema_version": 1,
        "parent": parent.digest,
        "drop": "cd" * 32,
        "added": [],
        "changed": [],
        "withdrawn": [],
        "tombstones": before["tombstones"],
    }
    made = chain.root.parent / "made"
    write_release(made, records, version="next", parent=parent.digest, changes=true | changes)
    steps = [event("update", {"source": "cd" * 32, "previous": parent.digest}, {"marked": Release(made).digest}, 1)]
    publish(chain, made, steps, KEY, None)


def test_a_chain_holds(chain):
    result = verify_chain(chain.head, PUBLIC, raw=chain.raw, sources=chain.sources, clean=chain.clean)
    assert result["holds"] and result["broken"] is None and result["head"] == chain.head.name
    assert [one["digest"] for one in result["releases"]] == [path.name for path in chain.releases]
    assert {found["status"] for found in result["objects"]} == {"holds"}
    assert {found["kind"] for found in result["objects"]} == {
        *("release", "lineage", "shard", "changes", "commitment", "difference", "raw", "clean")
    }
    assert result["releases"][1]["changes"] == {"added": 1, "changed": 1, "withdrawn": 1, "tombstones": 1}


def test_a_release_elsewhere_finds_its_parents_in_the_root(chain, tmp_path):
    elsewhere = Path(shutil.move(chain.head, tmp_path / "release"))
    assert verify_chain(elsewhere, PUBLIC, root=chain.root)["holds"]
    result = verify_chain(elsewhere, PUBLIC)
    assert result["broken"]["path"] == chain.releases[1].name and "missing" in result["broken"]["says"]


def test_without_a_key_nothing_holds(chain):
    result = verify_chain(chain.head, None)
    assert not result["holds"] and result["broken"] is None and result["key_id"] is None
    assert all("not checked" in one["says"] for one in result["objects"] if one["kind"] in ("lineage", "commitment"))


@pytest.mark.parametrize("kind", ["added", "changed", "withdrawn"])
@pytest.mark.parametrize("told", [True, False])
def test_a_false_list_of_changes_is_noticed(chain, kind, told):
    """An image that did not change is listed, or one that did is not."""
    records = records_of(chain.head)
    stays, goes = sorted(records)[:2]
    new = record(np.random.default_rng(9), "new", 50)
    if told:
        lie = {"added": "ghost", "changed": stays, "withdrawn": "ghost"}[kind]
        tombstones = Release(chain.head).read_changes()["tombstones"]
        next_release(chain, records, **{kind: [lie], "tombstones": tombstones})
    elif kind == "added":
        next_release(chain, records | {"new": new})
    elif kind == "changed":
        next_release(chain, records | {stays: changed(records[stays], np.random.default_rng(9))})
    else:
        next_release(chain, {one: r for one, r in records.items() if one != goes})
    path, says = first_broken(chain)
    assert path == "changes.json" and f"as {kind}" in says and ("lists" in says) == told


def test_another_label_is_a_change(chain):
    records = records_of(chain.head)
    one = next(iter(records))
    next_release(chain, records | {one: replace(records[one], label=1 - records[one].label)})
    path, says = first_broken(chain)
    assert path == "changes.json" and f"does not list {one} as changed" in says


def test_no_tombstone_goes(chain):
    next_release(chain, records_of(chain.head), tombstones=[])
    path, says = first_broken(chain)
    assert path == "changes.json" and "tombstones are not those of the releases before" in says


def test_what_was_withdrawn_does_not_come_back(chain):
    """Not even if that is said openly."""
    (gone,) = Release(chain.head).read_changes()["tombstones"]
    back = record(np.random.default_rng(9), gone, 50)
    next_release(chain, records_of(chain.head) | {gone: back}, added=[gone])
    path, says = first_broken(chain)
    assert path == "changes.json" and f"withdrawn image is back: {gone}" in says


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ({"parent": "ee" * 32}, "another parent"),
        ({"drop": "ee" * 32}, "another drop"),
        ({"schema_version": 2}, "reads version 1"),
        ({"added": ["a", "a"]}, "added is no list"),
        ({"changed": [7]}, "changed is no list"),
        ({"tombstones": None}, "damaged list of changes"),
        ({"why": "because"}, "its fields"),
    ],
)
def test_changes_of_another_form_are_refused(chain, lie, said):
    next_release(chain, records_of(chain.head), **lie)
    path, says = first_broken(chain)
    assert path == "changes.json" and said in says


def signed_lie(chain, release: Path, **predicate) -> None:
    """The owner signs a lineage that ``sign_lineage`` would not."""
    path = release / "lineage.json"
    true = read_lineage(path)
    path.write_bytes(sign(KEY, "lineage", path, Release(release), PREDICATE_TYPE, true.predicate | predicate).data)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["record"].update(release_digest="ee" * 32), "record of another release"),
        (lambda r: r["record"].update(parent_digest="ee" * 32), "record of another release"),
        (lambda r: r["record"]["drop"].update(digest="ee" * 32), "steps do not lead to the release"),
        (lambda r: r["record"]["steps"].pop(), "steps do not lead to the release"),
        (lambda r: r["record"]["steps"].reverse(), "steps do not lead to the release"),
        (lambda r: r.update(parent_lineage_sha256=None), "another thing of a parent"),
        (lambda r: r.update(parent_lineage_sha256="ee"), "parent_lineage_sha256 is malformed"),
        (lambda r: r.update(extra=1), "other fields than a lineage"),
        (lambda r: r.update(commitment_sha256=None), "not named by lineage.json"),
        (lambda r: r.update(commitment_sha256=None, timestamp_sha256="ee" * 32), "time stamp of no commitment"),
        (lambda r: r.update(signed_at="2026-01-01"), "does not match format"),
        (lambda r: r["record"].update(seed=5), "damaged record"),
        (lambda r: r["record"].update(schema_version=1.0), "damaged record"),
    ],
)
def test_a_lineage_that_says_what_cannot_be_is_named(chain, change, said):
    predicate = json.loads(json.dumps(read_lineage(chain.head / "lineage.json").predicate))
    change(predicate)
    path = chain.head / "lineage.json"
    try:
        data = sign(KEY, "lineage", path, Release(chain.head), PREDICATE_TYPE, predicate).data
    except MedmarkError:
        pytest.fail("cannot be signed, so the test shows nothing")
    path.write_bytes(data)
    where, says = first_broken(chain)
    assert where == ("commitment.json" if "not named" in said else "lineage.json") and said in says


def test_the_first_release_must_come_from_its_drop(chain):
    first = chain.releases[0]
    record = json.loads(json.dumps(read_lineage(first / "lineage.json").record))
    record["steps"][0]["outputs"] = {"clean": {"sha256": "ee" * 32}}
    del chain.releases[1:]
    signed_lie(chain, first, record=record)
    path, says = first_broken(chain)
    assert path == "lineage.json" and "no step makes the release before it of the raw drop" in says


def test_raw_files_and_the_clean_release_are_those_of_the_first_run(chain, tmp_path):
    options = {"raw": chain.raw, "sources": chain.sources.parent, "clean": chain.clean}
    assert verify_chain(chain.head, PUBLIC, **options)["holds"]
    with pytest.raises(MedmarkError, match="give both"):
        verify_chain(chain.head, PUBLIC, raw=chain.raw)
    lost = sorted(path for path in chain.raw.rglob("*.png"))[1]
    lost.rename(lost.with_suffix(".bak"))
    result = verify_chain(chain.head, PUBLIC, **options)
    assert result["broken"]["path"] == f"raw/{lost.relative_to(chain.raw)}" and "missing" in result["broken"]["says"]
    lost.with_suffix(".bak").rename(lost)
    other = make_chain(tmp_path / "other", KEY, 1)
    for path in other.raw.rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"!")
    assert verify_chain(chain.head, PUBLIC, **options | {"clean": chain.releases[0]})["broken"]["kind"] == "clean"
    assert verify_chain(chain.head, PUBLIC, **options | {"raw": other.raw})["broken"]["path"].startswith("raw/")
    table = chain.sources.read_bytes()
    chain.sources.write_bytes(b"PAR1" + table)
    assert verify_chain(chain.head, PUBLIC, **options)["broken"]["path"] == "keep/sources.parquet"


def test_names_of_raw_files_stay_in_the_folder(chain, tmp_path):
    """A table that the owner signed, of a drop whose names lead elsewhere."""
    from medmark.components.dataset.origin import Origin, drop_digest, write_origins

    outside = tmp_path / "outside.png"
    outside.write_bytes(b"x")
    origins = [Origin("image-0", "../../outside.png", file_sha256(outside), "aa" * 32)]
    write_origins(tmp_path / "keep", origins, patient_key="k")
    first, drop = chain.releases[0], drop_digest(origins, "k")
    record = json.loads(json.dumps(read_lineage(first / "lineage.json").record))
    record["drop"]["digest"] = record["steps"][0]["inputs"]["source"]["sha256"] = drop
    del chain.releases[1:]
    signed_lie(chain, first, record=record)
    _, says = first_broken(chain, raw=chain.raw, sources=tmp_path / "keep")
    assert "refused" in says and "outside.png" in says


def test_a_loop_ends(tmp_path):
    """Digests rule loops out; folders that pretend to be parents of each other are seen through at the first."""
    names = ["aa" * 32, "bb" * 32]
    for name, parent in zip(names, reversed(names), strict=True):
        changes = {"parent": parent}
        made = tmp_path / name
        write_release(
            made, {"a": record(np.random.default_rng(0), "a", 0)}, version="1", parent=parent, changes=changes
        )
    for head in (tmp_path / names[0], Path(shutil.copytree(tmp_path / names[0], tmp_path / "head"))):
        result = verify_chain(head, PUBLIC)
        assert not result["holds"] and len(result["releases"]) <= 2


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
@pytest.mark.parametrize("name", ["release.json", "changes.json", "lineage.json", "commitment.json"])
def test_no_file_is_read_that_is_none(chain, tmp_path, kind, name):
    import os

    path = chain.head / name
    data = path.read_bytes()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        (tmp_path / "elsewhere").write_bytes(data + b" ")
        path.symlink_to(tmp_path / "elsewhere")
    assert first_broken(chain)[0] == name


def test_huge_files_are_not_read(chain):
    with open(chain.head / "lineage.json", "ab") as stream:
        stream.truncate(1 << 40)
    path, says = first_broken(chain)
    assert path == "lineage.json" and "larger than" in says


def test_nothing_is_parsed_that_nobody_answers_for(chain, monkeypatch):
    """Parquet from strangers: without a sound signature only its digest is compared."""
    (chain.head / "lineage.json").unlink()
    monkeypatch.setattr(Release, "records", lambda *a, **k: pytest.fail("a shard was parsed"))
    monkeypatch.setattr(Release, "verify", lambda *a, **k: pytest.fail("a shard was parsed"))
    for path in chain.releases[:-1]:
        shutil.rmtree(path)
    result = verify_chain(chain.head, PUBLIC)
    assert "lineage.json" in {
        found["path"].partition("/")[2] for found in result["objects"] if found["status"] == "broken"
    }


def test_a_commitment_needs_a_time_stamp_if_roots_are_given(chain, tmp_path):
    (tmp_path / "roots.pem").write_text("none")
    path, says = first_broken(chain, timestamp_roots=tmp_path / "roots.pem")
    assert path == "commitment.tsr" and "no time stamp" in says


def test_stamped_commitments(tmp_path, authority, start_authority):
    chain = make_chain(tmp_path / "chain", KEY, 2, timestamp_url=authority.url)
    result = verify_chain(chain.head, PUBLIC, timestamp_roots=authority.root)
    assert result["holds"] and all(one["timestamp"] for one in result["releases"])
    unchecked = verify_chain(chain.head, PUBLIC)
    assert unchecked["holds"] and not any(one["timestamp"] for one in unchecked["releases"])
    path, says = first_broken(chain, timestamp_roots=start_authority().root)
    assert path == "commitment.tsr" and "time stamp does not hold" in says


def test_a_release_without_commitment(tmp_path):
    chain = make_chain(tmp_path / "chain", KEY, 2, committed=False)
    result = verify_chain(chain.head, PUBLIC)
    assert result["holds"] and not any(one["kind"] == "commitment" for one in result["objects"])
    for name in ("commitment.json", "commitment.tsr"):
        shutil.copyfile(FIXTURES / "commitment-v1" / name, chain.head / name)
        path, says = first_broken(chain)
        assert path == name and "not named by lineage.json" in says
        (chain.head / name).unlink()


def test_signing_refuses_what_does_not_belong_together(chain, tmp_path):
    first, second, third = chain.releases
    private = chain.private
    lineage = third / "lineage.json"
    signed = lineage.read_bytes()
    with pytest.raises(MedmarkError, match=r"already there: .*lineage\.json"):
        sign_lineage(third, private[2] / "record.json", KEY, parent=second)
    lineage.unlink()
    (third / "commitment.json").unlink()
    cases = [
        ({"parent": None}, "an updated release needs its parent"),
        ({"parent": first}, "not the parent"),
        ({"record": private[1] / "record.json"}, "record of another release"),
        ({"record": tmp_path / "absent"}, "record cannot be read"),
        ({"commitment": private[1] / "commitment.json"}, "commitment to another release"),
        ({"key": OTHER_KEY}, "lineage of another signer"),
    ]
    for change, said in cases:
        options = {"record": private[2] / "record.json", "key": KEY, "parent": second, **change}
        with pytest.raises(MedmarkError, match=said):
            sign_lineage(third, options.pop("record"), options.pop("key"), **options)
        assert not lineage.exists() and not (third / "commitment.json").exists()
    with pytest.raises(MedmarkError, match="a first one has none"):
        (first / "lineage.json").unlink()
        sign_lineage(first, private[0] / "record.json", KEY, parent=second)
    shutil.copyfile(private[1] / "commitment.json", third / "commitment.json")
    with pytest.raises(MedmarkError, match="another file is in the release"):
        sign_lineage(third, private[2] / "record.json", KEY, parent=second)
    (third / "commitment.json").unlink()
    shard = third / "shards" / "part-00000.parquet"
    shard.write_bytes(shard.read_bytes() + b"!")
    with pytest.raises(MedmarkError, match="shard changed"):
        sign_lineage(third, private[2] / "record.json", KEY, parent=second)
    assert signed


def test_one_lineage_is_checked_alone(chain):
    lineage = verify_lineage(chain.head, PUBLIC)
    assert lineage.record["release_digest"] == chain.head.name and lineage.signed_by == key_id(PUBLIC)
    with pytest.raises(MedmarkError, match="lineage of another signer"):
        verify_lineage(chain.head, OTHER_KEY.public_key())
    shutil.copyfile(chain.releases[1] / "lineage.json", chain.head / "lineage.json")
    with pytest.raises(MedmarkError, match="lineage of another release"):
        verify_lineage(chain.head, PUBLIC)


def test_others_can_check_it_without_medmark(chain):
    """DSSE and in-toto by hand, from their specifications."""
    envelope = json.loads((chain.head / "lineage.json").read_bytes())
    kind, payload = envelope["payloadType"].encode(), base64.b64decode(envelope["payload"])
    PUBLIC.verify(
        base64.b64decode(envelope["signatures"][0]["sig"]),
        b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload),
    )
    statement = json.loads(payload)
    assert (
        statement["_type"] == "https://in-toto.io/Statement/v1"
        and statement["predicateType"] == "urn:medmark:lineage:v1"
    )
    assert statement["subject"] == [{"name": "chain", "digest": {"sha256": chain.head.name}}]
    parent = (chain.releases[-2] / "lineage.json").read_bytes()
    assert statement["predicate"]["parent_lineage_sha256"] == hashlib.sha256(parent).hexdigest()
    assert statement["predicate"]["record"]["schema_version"] == 1


def public_texts(chain, tmp_path) -> dict[str, str]:
    """Everything that this room hands out about a chain."""
    from medmark.components.lineage.croissant import write_card

    write_card(chain.head, tmp_path / "croissant.json")
    result = verify_chain(chain.head, PUBLIC)
    write_lineage_report(tmp_path / "lineage.html", result)
    texts = {name: (tmp_path / name).read_text() for name in ("croissant.json", "lineage.html")}
    for release, private in zip(chain.releases, chain.private, strict=True):
        envelope = (release / "lineage.json").read_text()
        texts[f"lineage of {release.name}"] = envelope + base64.b64decode(json.loads(envelope)["payload"]).decode()
        texts[f"record of {release.name}"] = (private / "record.json").read_text()
    return texts | {"result": json.dumps(result)}


def test_nothing_secret_gets_out(chain, tmp_path):
    """No seed, no parameter, no private digest, no path and no machine's name, in whatever is public."""
    import os
    import socket

    salts = [json.loads((p / "evidence" / "steps.json").read_bytes())["salt"] for p in chain.private]
    evidence = [file_sha256(p / "evidence" / "evidence.json") for p in chain.private]
    secrets = [str(SEED), f"{SEED:x}", *map(str, PARAMETERS.values()), *PARAMETERS, *salts, *evidence]
    secrets += [
        str(tmp_path),
        str(chain.root),
        str(Path.home()),
        os.sep + "tmp",
        "secret-patients",
        "film 0",
        "private-1",
    ]
    if len(socket.gethostname()) > 3:
        secrets.append(socket.gethostname())
    for name, text in public_texts(chain, tmp_path).items():
        for secret in secrets:
            assert secret not in text, f"{secret} is in {name}"


def test_a_broken_chain_tells_no_paths_either(chain, tmp_path):
    (chain.head / "shards" / "part-00000.parquet").unlink()
    (chain.releases[0] / "commitment.json").write_bytes(b"{}")
    shutil.rmtree(chain.clean)
    result = verify_chain(chain.head, PUBLIC, clean=chain.clean)
    assert sum(found["status"] == "broken" for found in result["objects"]) == 3
    assert str(tmp_path) not in json.dumps(result)


def test_the_tree_and_the_page_name_what_is_broken(chain, tmp_path):
    whole = verify_chain(chain.head, PUBLIC)
    (chain.releases[1] / "commitment.json").unlink()
    broken = verify_chain(chain.head, PUBLIC)
    shutil.rmtree(chain.releases[0])
    cut = verify_chain(chain.head, PUBLIC)
    for result, said, red in (
        (whole, "All 3 releases hold", 0),
        (broken, "The chain is broken", 1),
        (cut, "missing", 1),
    ):
        console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(lineage_tree(result))
        text = console.export_text()
        assert said in text and chain.head.name[:12] in text
        write_lineage_report(tmp_path / "page.html", result)
        page = (tmp_path / "page.html").read_text()
        assert (' broken"' in page) == bool(red) and "<script" not in page and page.count("<svg") == 1
        assert "default-src 'none'" in page and "http" not in page.replace("http-equiv", "")
        assert page.count('class="release') == len(result["releases"])


def test_names_from_outside_are_only_text(tmp_path):
    """In the tree, where square brackets mean colours, as on the page."""
    made = make_chain(tmp_path / "chain", KEY, 1)
    result = verify_chain(made.head, PUBLIC)
    name = '<img src=x onerror="alert(1)">[red]x[/red]'
    result["releases"][0]["name"] = name
    result["objects"][0]["says"] = name
    write_lineage_report(tmp_path / "page.html", result)
    page = (tmp_path / "page.html").read_text()
    assert "<img" not in page and "&lt;img" in page
    console = Console(record=True, width=300, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(lineage_tree(result))
    assert "[red]x[/red]" in console.export_text()


def test_the_frozen_chain_still_holds():
    """Written by the first medmark that had it; a change that breaks this needs a new schema version."""
    key = load_public(FROZEN / "medmark.pub")
    (head,) = (path for path in (FROZEN / "releases").iterdir() if Release(path).version == "2")
    result = verify_chain(head, key, root=FROZEN / "releases")
    assert result["holds"], result["broken"]
    assert result == json.loads((FROZEN / "checked.json").read_bytes())
    lineage = read_lineage(head / "lineage.json")
    assert lineage.signed_at == "2026-01-02T03:04:05Z" and lineage.record["verdict"] == "owned"
    assert canonical_json(lineage.envelope.to_dict()) == (head / "lineage.json").read_bytes()


if __name__ == "__main__":  # how the frozen chain was made: python tests/unit/lineage/test_chain.py
    import tempfile

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    FROZEN.mkdir()
    with tempfile.TemporaryDirectory() as folder:
        frozen = make_chain(Path(folder) / "chain", KEY, 2, now=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
        shutil.copytree(frozen.root, FROZEN / "releases")
    (FROZEN / "medmark.pub").write_bytes(PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    checked = verify_chain(FROZEN / "releases" / frozen.head.name, PUBLIC)
    (FROZEN / "checked.json").write_bytes(canonical_json(checked))
