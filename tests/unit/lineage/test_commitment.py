import base64
import hashlib
import hmac
import json
import random
import re
import shutil
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from commitment_case import FIXTURES, RELEASE, copy_evidence
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.release import Release
from medmark.components.evidence.evidence import read_evidence
from medmark.components.lineage.commitment import commit, reveal, verify_commitment, verify_reveal
from medmark.components.lineage.keys import key_id, load_public
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

FROZEN = FIXTURES / "commitment-v1"
KEY, OTHER_KEY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
DIGEST = Release(RELEASE).digest
MUTATIONS = 420


def sign(statement: bytes, *, key=KEY, payload_type="application/vnd.in-toto+json") -> bytes:
    """An envelope with a good signature over anything."""
    envelope = Envelope(statement, payload_type, {})
    envelope.sign(CryptoSigner(key, SSlibKey.from_crypto(key.public_key(), keyid=key_id(key.public_key()))))
    return canonical_json(envelope.to_dict())


def statement_of(path: Path) -> dict:
    return json.loads(base64.b64decode(json.loads(path.read_bytes())["payload"]))


def test_a_commitment_round_trips(evidence, tmp_path):
    now = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
    made = commit(RELEASE, evidence, KEY, tmp_path / "commitment.json", now=now)
    checked = verify_commitment(
        tmp_path / "commitment.json", KEY.public_key(), release_digest=DIGEST, evidence_dir=evidence
    )
    assert checked == made
    assert (checked["release_name"], checked["release_digest"]) == ("fixture", DIGEST)
    assert checked["signed_at"] == "2026-02-03T04:05:06Z" and checked["timestamp"] is None
    assert checked["evidence_checked"] and "only the signer's own claim" in checked["time_says"]
    assert stat.S_IMODE((evidence / "opening.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "commitment.json").stat().st_mode) == 0o644
    assert read_evidence(evidence)  # the opening does not disturb it
    assert not verify_commitment(tmp_path / "commitment.json", KEY.public_key())["evidence_checked"]
    assert not [p for p in (*tmp_path.iterdir(), *evidence.iterdir()) if p.name.startswith(".")]


def test_others_can_check_it_without_medmark(evidence, tmp_path):
    """DSSE, in-toto Statement v1 and HMAC by hand, from their specifications."""
    commit(RELEASE, evidence, KEY, tmp_path / "commitment.json")
    envelope = json.loads((tmp_path / "commitment.json").read_bytes())
    kind, payload = envelope["payloadType"].encode(), base64.b64decode(envelope["payload"])
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    KEY.public_key().verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed)
    statement = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "urn:medmark:commitment:v1"
    assert statement["subject"] == [{"name": "fixture", "digest": {"sha256": DIGEST}}]
    salt = bytes.fromhex(json.loads((evidence / "opening.json").read_bytes())["salt"])
    mac = hmac.new(salt, (evidence / "evidence.json").read_bytes(), "sha256").hexdigest()
    assert len(salt) == 32 and statement["predicate"]["evidence"] == {"hmac-sha256": mac}


def test_the_salt_hides_the_evidence(evidence, tmp_path):
    twin = tmp_path / "twin"
    shutil.copytree(evidence, twin)
    now = datetime.now(UTC)
    one = commit(RELEASE, evidence, KEY, tmp_path / "one.json", now=now)
    two = commit(RELEASE, twin, KEY, tmp_path / "two.json", now=now)
    assert one["evidence_hmac"] != two["evidence_hmac"]
    secrets = [json.loads((folder / "opening.json").read_bytes())["salt"] for folder in (evidence, twin)]
    raw = (evidence / "evidence.json").read_bytes()
    secrets += [hashlib.new(name, raw).hexdigest() for name in ("sha256", "sha512", "sha1", "md5")]
    secrets += list(json.loads(raw)["files"].values())
    for name in ("one.json", "two.json"):
        public = (tmp_path / name).read_bytes().decode()
        public += base64.b64decode(json.loads(public)["payload"]).decode()
        for secret in secrets:
            assert secret not in public and base64.b64encode(bytes.fromhex(secret)).decode() not in public


def test_a_reveal_round_trips(evidence, tmp_path):
    commit(RELEASE, evidence, KEY, tmp_path / "commitment.json")
    reveal(tmp_path / "commitment.json", evidence, tmp_path / "reveal.json")
    checked = verify_reveal(tmp_path / "reveal.json", tmp_path / "commitment.json", KEY.public_key())
    assert checked["evidence_checked"] and checked["evidence"] == read_evidence(evidence)
    assert stat.S_IMODE((tmp_path / "reveal.json").stat().st_mode) == 0o600
    with pytest.raises(MedmarkError, match=r"already there: .*reveal\.json"):
        reveal(tmp_path / "commitment.json", evidence, tmp_path / "reveal.json")


def test_nothing_is_written_over(evidence, tmp_path):
    out = tmp_path / "commitment.json"
    commit(RELEASE, evidence, KEY, out)
    before = (evidence / "opening.json").read_bytes(), out.read_bytes()
    with pytest.raises(MedmarkError, match=r"committed to already: .*opening\.json"):
        commit(RELEASE, evidence, KEY, tmp_path / "again.json")
    fresh = copy_evidence(tmp_path / "fresh")
    with pytest.raises(MedmarkError, match=r"already there: .*commitment\.json"):
        commit(RELEASE, fresh, KEY, out)
    (tmp_path / "other.tsr").touch()
    with pytest.raises(MedmarkError, match=r"already there: .*other\.tsr"):
        commit(RELEASE, fresh, KEY, tmp_path / "other.json")
    assert not (fresh / "opening.json").exists() and not (tmp_path / "again.json").exists()
    assert before == ((evidence / "opening.json").read_bytes(), out.read_bytes())


def test_without_a_place_for_the_opening_there_is_no_commitment(evidence, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(MedmarkError, match=r"cannot write: .*opening\.json \(No space left"):
        commit(RELEASE, evidence, KEY, tmp_path / "commitment.json")
    assert {p.name for p in tmp_path.iterdir()} == {"evidence"}
    assert {p.name for p in evidence.iterdir()} == {p.name for p in (FIXTURES / "evidence-v1").iterdir()}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"thresholds": None}, "incomplete evidence: .*fixes no thresholds"),
        ({"release_digest": "ab" * 32}, "evidence of another release"),
        ({"release_digest": "AB" * 32}, "damaged evidence"),
        ({"files": {}}, "incomplete evidence: .*fixes no queries.parquet"),
        ({"files": {"queries.parquet": "00" * 32}}, "incomplete evidence: .*fixes no innocents.parquet"),
        ({"files": {"queries.parquet": "00" * 32, "innocents.parquet": "00" * 32}}, "evidence changed or missing"),
        ({"files": {"queries.parquet": "00" * 32, "innocents.parquet": 7}}, "damaged evidence"),
        ({"files": {"a\0b": "00" * 32}}, "damaged evidence"),
        ({"files": [["queries.parquet", "00"]]}, "damaged evidence"),
    ],
)
def test_unfit_evidence_is_not_committed_to(tmp_path, changes, said):
    folder = copy_evidence(tmp_path / "evidence", **changes)
    with pytest.raises(MedmarkError, match=said):
        commit(RELEASE, folder, KEY, tmp_path / "commitment.json")
    assert not (tmp_path / "commitment.json").exists() and not (folder / "opening.json").exists()


@pytest.mark.parametrize("out", ["commitment.tsr", "commitment", "missing/commitment.json"])
def test_unfit_places_are_refused(evidence, tmp_path, out):
    with pytest.raises(MedmarkError, match="cannot be written"):
        commit(RELEASE, evidence, KEY, tmp_path / out)
    assert not (evidence / "opening.json").exists()


def test_a_release_whose_name_could_lie_on_a_screen_is_refused(evidence, tmp_path):
    release = tmp_path / "release"
    shutil.copytree(RELEASE, release)
    manifest = json.loads((release / "release.json").read_bytes())
    (release / "release.json").write_bytes(canonical_json(manifest | {"name": "x\x1b[2Jowned"}))
    folder = copy_evidence(tmp_path / "its", release_digest=Release(release).digest)
    with pytest.raises(MedmarkError, match="release name unfit"):
        commit(release, folder, KEY, tmp_path / "commitment.json")


def test_a_signer_who_left_files_open_is_caught(evidence, tmp_path):
    """His statement is well signed, but his evidence leaves the queries to be made up later."""
    open_files = copy_evidence(tmp_path / "open", files={})
    raw, salt = (open_files / "evidence.json").read_bytes(), bytes(32)
    commit(RELEASE, evidence, KEY, tmp_path / "honest.json")
    statement = statement_of(tmp_path / "honest.json")
    statement["predicate"]["evidence"]["hmac-sha256"] = hmac.new(salt, raw, "sha256").hexdigest()
    (tmp_path / "commitment.json").write_bytes(sign(canonical_json(statement)))
    commitment = (tmp_path / "commitment.json").read_bytes()
    shown = {"schema_version": 1, "salt": salt.hex(), "evidence": base64.b64encode(raw).decode()}
    (tmp_path / "reveal.json").write_bytes(
        canonical_json(shown | {"commitment": base64.b64encode(commitment).decode()})
    )
    with pytest.raises(MedmarkError, match="incomplete evidence: .*reveal.json fixes no queries"):
        verify_reveal(tmp_path / "reveal.json", tmp_path / "commitment.json", KEY.public_key())
    opening = {"schema_version": 1, "salt": salt.hex(), "evidence_sha256": hashlib.sha256(raw).hexdigest()}
    opening |= {"commitment_sha256": hashlib.sha256(commitment).hexdigest()}
    (open_files / "opening.json").write_bytes(canonical_json(opening))
    with pytest.raises(MedmarkError, match="incomplete evidence: .*evidence.json fixes no queries"):
        verify_commitment(tmp_path / "commitment.json", KEY.public_key(), evidence_dir=open_files)


def test_the_frozen_formats_are_read(tmp_path):
    """Written by the first version; must be readable for as long as there is a medmark."""
    evidence = tmp_path / "evidence"
    shutil.copytree(FIXTURES / "evidence-v1", evidence)
    for name in ("evidence.json", "opening.json"):
        shutil.copy(FROZEN / name, evidence / name)
    key = load_public(FROZEN / "medmark.pub")
    checked = verify_commitment(
        FROZEN / "commitment.json",
        key,
        release_digest=DIGEST,
        evidence_dir=evidence,
        timestamp_roots=FROZEN / "tsa-root.pem",
    )
    assert checked == json.loads((FROZEN / "checked.json").read_bytes())
    shown = verify_reveal(FROZEN / "reveal.json", FROZEN / "commitment.json", key)
    assert shown["evidence"] == json.loads((FROZEN / "evidence.json").read_bytes())


def hostile_statements(good: dict):
    """Statements with a good signature that are no commitment."""
    yield "no JSON", b"\xff\xfe"
    yield "deep", b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    yield "a list", b"[]"
    yield "two subjects", canonical_json(good | {"subject": good["subject"] * 2})
    yield "no subject", canonical_json(good | {"subject": []})
    yield "another statement", canonical_json(good | {"_type": "https://in-toto.io/Statement/v0.1"})
    yield "another predicate", canonical_json(good | {"predicateType": "urn:medmark:commitment:v2"})
    yield "an unknown field", canonical_json(good | {"more": 1})
    yield "an unknown claim", canonical_json(good | {"predicate": good["predicate"] | {"more": 1}})
    yield "a key twice", canonical_json(good).replace(b'"signed_at"', b'"medmark": "9", "signed_at"')
    (subject,) = good["subject"]
    yield "two digests", canonical_json(good | {"subject": [subject | {"digest": {"sha256": DIGEST, "md5": "0"}}]})
    yield "a short digest", canonical_json(good | {"subject": [subject | {"digest": {"sha256": DIGEST[:-1]}}]})
    yield "a name for the screen", canonical_json(good | {"subject": [subject | {"name": "\x1b[2J"}]})
    for field in good["predicate"]:
        for value in (
            None,
            7,
            1e400 if field == "medmark" else True,
            [],
            {},
            "",
            "\n",
            "x" * 100,
            "2026-02-30T00:00:00Z",
        ):
            text = json.dumps(good | {"predicate": good["predicate"] | {field: value}})
            yield f"{field}: {value!r:.20}", text.encode()
        yield (
            f"no {field}",
            canonical_json(good | {"predicate": {k: v for k, v in good["predicate"].items() if k != field}}),
        )


def test_well_signed_nonsense_is_refused(evidence, tmp_path):
    path = tmp_path / "commitment.json"
    commit(RELEASE, evidence, KEY, path)
    good = statement_of(path)
    path.write_bytes(sign(canonical_json(good)))
    assert verify_commitment(path, KEY.public_key())  # so that what follows is refused for its content
    refused = 0
    for name, statement in hostile_statements(good):
        if name.startswith("medmark: '2026"):
            continue  # an odd version, but one
        path.write_bytes(sign(statement))
        with pytest.raises(MedmarkError, match=f"^damaged commitment: {path}") as caught:
            verify_commitment(path, KEY.public_key())
            pytest.fail(f"accepted: {name}")
        assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value) and len(str(caught.value)) < 500
        refused += 1
    assert refused >= 40
    path.write_bytes(sign(canonical_json(good), payload_type="application/json"))
    with pytest.raises(MedmarkError, match="payload type"):
        verify_commitment(path, KEY.public_key())


def envelopes(good: bytes):
    """Envelopes that are none, or are none of ours."""
    parsed = json.loads(good)
    (signature,) = parsed["signatures"]
    yield from (b"", b"{}", b"[]", b"null", b"\xff", b'{"a":' * 100_000, b"9" * 5000, b"{}" + b" " * (1 << 21))
    yield json.dumps(parsed).encode()  # other white space
    yield good.replace(b'"payload"', b'"payloadType": "x",\n  "payload"', 1)  # a key twice
    changes = [{"signatures": value} for value in ([], {}, None, "x", [7], [{}], [signature] * 2, [[signature]])]
    changes += [{"payload": value} for value in (None, 7, [], "", "%%%", parsed["payload"] + "=", "\ud800")]
    changes += [{"payloadType": value} for value in (None, 7, [], "", "text/plain")]
    changes += [{"signatures": [signature | {"keyid": value}]} for value in (None, 7, [], "", "x" * 64)]
    changes += [{"signatures": [signature | {"sig": value}]} for value in (None, 7, [], "", "AA", "AAAA", "\ud800")]
    changes += [
        {"more": 1},
        {"signatures": [signature | {"cert": "x"}]},
        {"signatures": [signature, signature | {"keyid": "0" * 64}]},
    ]
    for change in changes:
        yield (json.dumps(parsed | change, sort_keys=True, indent=2) + "\n").encode()


def test_hostile_envelopes_are_refused(evidence, tmp_path):
    path = tmp_path / "commitment.json"
    commit(RELEASE, evidence, KEY, path)
    good = path.read_bytes()
    for data in envelopes(good):
        path.write_bytes(data)
        with pytest.raises(MedmarkError, match=f"{path}") as caught:
            verify_commitment(path, KEY.public_key())
            pytest.fail(f"accepted: {data[:200]!r}")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    path.write_bytes(good)
    assert verify_commitment(path, KEY.public_key())


@dataclass
class Case:
    """All that a judge is given; ``before`` is the same owner's earlier commitment to other evidence of the release."""

    folder: Path
    before: Path

    @property
    def files(self) -> dict[str, Path]:
        evidence = self.folder / "evidence"
        return {
            "commitment": self.folder / "commitment.json",
            "opening": evidence / "opening.json",
            "evidence": evidence / "evidence.json",
            "queries": evidence / "queries.parquet",
            "innocents": evidence / "innocents.parquet",
            "generator": evidence / "generator" / "selection.json",
            "public": self.folder / "medmark.pub",
            "reveal": self.folder / "reveal.json",
        }

    def check(self, release_digest: str = DIGEST) -> None:
        key = load_public(self.files["public"])
        commitment, evidence = self.files["commitment"], self.folder / "evidence"
        verify_commitment(commitment, key, release_digest=release_digest, evidence_dir=evidence)
        verify_reveal(self.files["reveal"], commitment, key)


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    """One case and, as material for swaps, an earlier one."""
    folder = tmp_path_factory.mktemp("case")
    for name, seed in (("now", 1), ("before", 2)):
        evidence = copy_evidence(folder / name / "evidence", seed=seed)
        new_public(folder / name / "medmark.pub")
        commit(RELEASE, evidence, KEY, folder / name / "commitment.json", now=datetime(2026, 1, seed, tzinfo=UTC))
        reveal(folder / name / "commitment.json", evidence, folder / name / "reveal.json")
    case = Case(folder / "now", folder / "before")
    case.check()
    Case(folder / "before", folder / "now").check()
    return case


def new_public(path: Path, key: Ed25519PrivateKey = KEY) -> bytes:
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path.write_bytes(pem)
    return pem


# which object a message must name when this file was tampered with
NAMES = {
    "commitment": r"commitment\.json",
    "opening": r"opening\.json",
    "evidence": r"evidence\.json",
    "queries": r"queries\.parquet",
    "innocents": r"innocents\.parquet",
    "generator": r"selection\.json",
    "public": r"medmark\.pub|commitment of another signer",
    "reveal": r"reveal\.json",
}


def tampered(case: Case, rng: random.Random, name: str) -> tuple[str, bytes]:
    """What was done, and the new content."""
    data = case.files[name].read_bytes()
    kind = rng.choice(["flip a bit", "another byte", "truncate", "append", "remove a byte", "another character"])
    place = rng.randrange(len(data))
    if kind == "flip a bit":
        return kind, data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
    if kind == "another byte":
        return kind, data[:place] + bytes([(data[place] + rng.randrange(1, 256)) % 256]) + data[place + 1 :]
    if kind == "truncate":
        return kind, data[:place]
    if kind == "append":
        return kind, data + rng.choice([b"\n", b" ", b"\0", b"{}", data])
    if kind == "remove a byte":
        return kind, data[:place] + data[place + 1 :]
    same_class = [i for i, byte in enumerate(data) if chr(byte).isalnum()]
    place = rng.choice(same_class)
    letter = rng.choice([c for c in b"0123456789abcdefABCDEF+/" if c != data[place]])
    return kind, data[:place] + bytes([letter]) + data[place + 1 :]


def test_every_tampering_is_found_and_named(case):
    rng = random.Random(20261121)
    found = 0
    for number in range(MUTATIONS):
        name = list(NAMES)[number % len(NAMES)]
        good = case.files[name].read_bytes()
        kind, bad = tampered(case, rng, name)
        try:
            case.files[name].write_bytes(bad)
            with pytest.raises(MedmarkError) as caught:
                case.check()
                pytest.fail(f"not found: {kind} in {name}: {good!r:.400} -> {bad!r:.400}")
        finally:
            case.files[name].write_bytes(good)
        said = str(caught.value)
        assert re.search(NAMES[name], said) and "\n" not in said, f"{kind} in {name}: {said}"
        assert json.loads(case.files["opening"].read_bytes())["salt"] not in said
        found += 1
    case.check()
    assert found == MUTATIONS


def test_digests_of_other_releases_are_named(case):
    rng = random.Random(7)
    for _ in range(60):
        place = rng.randrange(64)
        digest = (
            DIGEST[:place] + rng.choice([c for c in "0123456789abcdefA" if c != DIGEST[place]]) + DIGEST[place + 1 :]
        )
        with pytest.raises(MedmarkError, match="commitment to another release"):
            case.check(rng.choice([digest, digest[:place], DIGEST.upper(), DIGEST + "0"]))


def resigned(case: Case) -> bytes:
    """The same statement by another key."""
    return sign(base64.b64decode(json.loads(case.files["commitment"].read_bytes())["payload"]), key=OTHER_KEY)


def another_signature(case: Case) -> bytes:
    """This statement with the earlier one's signature."""
    ours, before = (json.loads((f / "commitment.json").read_bytes()) for f in (case.folder, case.before))
    return canonical_json(ours | {"signatures": before["signatures"]})


def another_key_claimed(case: Case) -> bytes:
    """Another key's signature under the owner's key id."""
    envelope = json.loads(resigned(case))
    envelope["signatures"][0]["keyid"] = key_id(KEY.public_key())
    return canonical_json(envelope)


def another_payload_type(case: Case) -> bytes:
    return canonical_json(json.loads(case.files["commitment"].read_bytes()) | {"payloadType": "application/json"})


def another_time(case: Case) -> bytes:
    envelope = json.loads(case.files["commitment"].read_bytes())
    payload = base64.b64decode(envelope["payload"]).replace(b"2026-01-01", b"2025-01-01")
    return canonical_json(envelope | {"payload": base64.b64encode(payload).decode()})


@pytest.mark.parametrize(
    ("name", "made", "said"),
    [
        ("commitment", resigned, "commitment of another signer: .*commitment.json"),
        ("commitment", another_signature, "signature does not hold: .*commitment.json"),
        ("commitment", another_key_claimed, "signature does not hold: .*commitment.json"),
        ("commitment", another_payload_type, "damaged commitment: .*commitment.json .its payload type"),
        ("commitment", another_time, "signature does not hold: .*commitment.json"),
        ("commitment", "before", "opening of another commitment: .*opening.json does not belong to .*commitment.json"),
        ("opening", "before", "opening of another commitment: .*opening.json"),
        ("evidence", "before", "evidence changed since the commitment: .*evidence.json"),
        ("reveal", "before", "reveal of another commitment: .*reveal.json"),
        ("public", lambda case: new_public(case.before / "x.pub", OTHER_KEY), "commitment of another signer"),
    ],
)
def test_swaps_and_replays_are_found(case, name, made, said):
    good = case.files[name].read_bytes()
    bad = Case(case.before, case.folder).files[name].read_bytes() if made == "before" else made(case)
    assert bad != good
    try:
        case.files[name].write_bytes(bad)
        with pytest.raises(MedmarkError, match=said):
            case.check()
    finally:
        case.files[name].write_bytes(good)
    case.check()


def test_a_whole_earlier_case_is_no_proof_for_the_present_evidence(case):
    """An older commitment together with its own opening, beside the evidence of today."""
    names = ("commitment", "opening")
    good = {name: case.files[name].read_bytes() for name in names}
    try:
        for name in names:
            case.files[name].write_bytes(Case(case.before, case.folder).files[name].read_bytes())
        with pytest.raises(MedmarkError, match=r"evidence changed since the commitment: .*evidence\.json"):
            case.check()
    finally:
        for name in names:
            case.files[name].write_bytes(good[name])


def test_without_the_opening_nothing_is_proved(case):
    good = case.files["opening"].read_bytes()
    case.files["opening"].unlink()
    try:
        with pytest.raises(MedmarkError, match=r"opening cannot be read: .*opening\.json"):
            case.check()
    finally:
        case.files["opening"].write_bytes(good)
