"""Drawing a key so that nobody can choose it: through the commands, against a real authority."""

import base64
import hashlib
import hmac
import json
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from commitment_case import RELEASE
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from drawing_case import FROZEN, change_draw, drawn_evidence, stamp
from hypothesis import given as any_of
from hypothesis import settings
from hypothesis import strategies as st
from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.delivery.component import draw_secrets_component
from medmark.components.evidence.draw import DerivedKey, derived_key
from medmark.components.evidence.evidence import copy_evidence, read_evidence
from medmark.components.evidence.secrets import draw_secrets, read_secrets
from medmark.components.lineage.commitment import commit
from medmark.components.lineage.drawing import SELF_DRAWN, check_draw, complete, new_drawing, read_drawing
from medmark.components.lineage.keys import load_private, new_key
from medmark.components.lineage.timestamp import read_stamp, request_timestamp, verify_timestamp
from medmark.components.verification.audit import audit, audit_suspects
from pyasn1.codec.der.decoder import decode
from pyasn1.codec.der.encoder import encode
from pyasn1.type.univ import OctetString
from pyasn1_modules import rfc3161, rfc5652

BEACON, VALUE = "drand quicknet, round 30000000", b'{"round":30000000,"randomness":"5a"}'
PASSPHRASE = "correct horse battery"


@pytest.fixture
def stamped(medmark, authority, tmp_path):
    """A drawing that a time stamp completes, and the stamp."""
    assert medmark("keys", "draw", tmp_path / "drawing.json")[0] == 0
    return tmp_path / "drawing.json", stamp(tmp_path / "drawing.json", authority)


@pytest.fixture
def beaconed(medmark, authority, tmp_path):
    """A drawing that a beacon completes, with its commitment stamped, and what the beacon gave."""
    assert medmark("keys", "draw", tmp_path / "by-beacon.json", "--beacon", BEACON)[0] == 0
    stamp(tmp_path / "by-beacon.json", authority)
    (tmp_path / "pulse").write_bytes(VALUE)
    return tmp_path / "by-beacon.json", tmp_path / "pulse"


# derivation and formats


@pytest.mark.parametrize(
    ("secret", "value", "seed", "mark_key"),
    [
        (bytes(32), b"", 41158803199000, "7d1320802f17c250f706f38712137f31421bb055c1d27ea1a7898d47d7d1a6f7"),
        (
            bytes(range(32)),
            b"value",
            203954026146572,
            "97136de1d6594f2b9841858bdccd92d9b38318b65f3e0d37c96c8c87e0ac9844",
        ),
    ],
)
def test_the_derivation_is_frozen_and_hkdf(secret, value, seed, mark_key):
    extracted = hmac.digest(hashlib.sha256(value).digest(), secret, "sha256")
    key = derived_key(secret, value)
    assert (key.seed, key.mark_key) == (seed, mark_key)
    assert bytes.fromhex(mark_key) == HKDFExpand(SHA256(), 32, b"medmark drawn mark_key, version 1").derive(extracted)
    assert seed == int.from_bytes(HKDFExpand(SHA256(), 6, b"medmark drawn seed, version 1").derive(extracted), "big")


@pytest.mark.parametrize("kind", ["stamp", "beacon"])
def test_the_first_formats_are_read(kind, tmp_path):
    """Written by the first version; the authority's certificate has expired since."""
    drawing, value = FROZEN / f"{kind}.json", FROZEN / {"stamp": "stamp.commitment.tsr", "beacon": "pulse"}[kind]
    draw = complete(drawing, value)
    wanted = json.loads((FROZEN / "derived.json").read_bytes())[kind]
    assert draw.text == (FROZEN / f"{kind}.draw.json").read_text() and vars(draw.key) == wanted
    evidence = drawn_evidence(tmp_path / "e", draw)
    known = {"beacon": value} if kind == "beacon" else {}
    assert check_draw(evidence, timestamp_roots=FROZEN / "tsa-root.pem", **known).drawn == "verifiable"


def test_a_drawing_is_private_and_its_commitment_tells_nothing(medmark, tmp_path):
    code, out, err = medmark("keys", "draw", tmp_path / "drawing.json")
    assert (code, err) == (0, "")
    public = tmp_path / "drawing.commitment.json"
    assert {path.name for path in tmp_path.iterdir()} == {"drawing.json", public.name}
    assert stat.S_IMODE((tmp_path / "drawing.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    private = json.loads((tmp_path / "drawing.json").read_bytes())
    assert private["commitment"] == public.read_text() and len(private["secret"]) == 64
    assert private["secret"] not in public.read_text() + out
    assert set(json.loads(public.read_bytes())) == {"schema_version", "secret_sha256", "beacon"}
    medmark("keys", "draw", tmp_path / "other.json")
    assert json.loads((tmp_path / "other.json").read_bytes())["secret"] != private["secret"]


def test_what_the_command_says_to_do_next_can_be_done(medmark, authority, tmp_path, monkeypatch):
    """The question that it shows, answered by an authority, gives the stamp that is wanted."""
    monkeypatch.chdir(tmp_path)
    _, out, _ = medmark("keys", "draw", "it's mine.json")
    (ask,) = re.findall(r"^  (openssl .*)$", out, re.M)
    subprocess.run(ask, shell=True, check=True, capture_output=True, timeout=20)
    file = Path("it's mine.commitment.tsr")
    file.write_bytes(authority.reply(Path("request.tsq").read_bytes()))
    assert complete("it's mine.json", file).key.seed < 2**48
    _, out, _ = medmark("keys", "draw", "b.json", "--beacon", BEACON)
    assert repr(BEACON) in out and json.loads(Path("b.commitment.json").read_bytes())["beacon"] == BEACON


@pytest.mark.parametrize("there", ["drawing.json", "drawing.commitment.json", "drawing.commitment.tsr"])
def test_no_drawing_is_written_over(medmark, tmp_path, there):
    (tmp_path / there).write_text("mine")
    code, _, err = medmark("keys", "draw", tmp_path / "drawing.json")
    assert code == 1 and f"already there: {tmp_path / there}" in err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(there, "mine")]


@pytest.mark.parametrize("beacon", ["", "  ", "two\nlines", "\x1b[2J", "x" * 201, "\u202eturned"])
def test_a_beacon_has_a_name_that_can_be_shown(medmark, tmp_path, beacon):
    code, _, err = medmark("keys", "draw", tmp_path / "drawing.json", "--beacon", beacon)
    assert code == 1 and "not the name of a beacon" in err and err.rstrip("\n").isprintable()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", ["drawing", "drawing.txt", "none/drawing.json", "s3://bucket/drawing.json"])
def test_unfit_places_for_a_drawing_are_refused(medmark, tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    assert medmark("keys", "draw", file)[0] == 1 and not list(tmp_path.iterdir())


# completing


def test_what_does_not_complete_a_drawing_is_refused(stamped, beaconed, authority, tmp_path):
    drawing, token = stamped
    by_beacon, pulse = beaconed
    (tmp_path / "other.tsr").write_bytes(request_timestamp(authority.url, b"something else"))
    (tmp_path / "junk").write_bytes(b"junk")
    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(bytes((1 << 16) + 1))
    (tmp_path / "largest").write_bytes(bytes(65536))
    for given, value, said in [
        (drawing, tmp_path / "other.tsr", "time stamp of something else"),
        (drawing, tmp_path / "junk", "no time stamp"),
        (drawing, tmp_path / "none", "cannot be read"),
        (drawing, stamped[0].with_name("by-beacon.commitment.tsr"), "time stamp of something else"),
        (by_beacon, tmp_path / "empty", "empty or larger than 65536"),
        (by_beacon, tmp_path / "large", "empty or larger than 65536"),
        (tmp_path / "none.json", token, "drawing cannot be read"),
    ]:
        with pytest.raises(MedmarkError, match=said) as refused:
            complete(given, value)
        assert str(refused.value).isprintable()
    assert complete(by_beacon, tmp_path / "largest").key != complete(by_beacon, pulse).key


def test_a_beacon_without_a_stamp_before_it_is_refused(beaconed):
    """The secret could have been chosen once the beacon's value was known."""
    drawing, pulse = beaconed
    token = drawing.with_suffix(".commitment.tsr")
    shutil.move(token, drawing.with_name("kept"))
    with pytest.raises(MedmarkError, match="time stamp of the drawing cannot be read.*before the beacon"):
        complete(drawing, pulse)
    token.write_bytes(b"junk")
    with pytest.raises(MedmarkError, match="no time stamp"):
        complete(drawing, pulse)


@pytest.mark.parametrize(
    "changes",
    [
        {"secret": "00" * 32},
        {"secret": "ab"},
        {"secret": None},
        {"schema_version": 2},
        {"more": 1},
        {"commitment": 7},
        {"commitment": "{}\n"},
        {"commitment": "["},
    ],
)
def test_a_changed_drawing_is_refused(stamped, changes):
    drawing, _ = stamped
    drawing.write_bytes(canonical_json(json.loads(drawing.read_bytes()) | changes))
    with pytest.raises(MedmarkError, match="damaged drawing: .*backup"):
        read_drawing(drawing)


def test_the_key_changes_with_every_part(stamped, authority, tmp_path):
    drawing, token = stamped
    again = tmp_path / "again.tsr"
    again.write_bytes(request_timestamp(authority.url, drawing.with_suffix(".commitment.json").read_bytes()))
    new_drawing(tmp_path / "next.json")
    keys = [complete(drawing, token).key, complete(drawing, again).key]
    keys.append(complete(tmp_path / "next.json", stamp(tmp_path / "next.json", authority)).key)
    assert len({key.seed for key in keys}) == len({key.mark_key for key in keys}) == 3
    assert complete(drawing, token).key == keys[0]


def turned(token: bytes) -> bytes:
    """The same stamp with the other of the two ECDSA signatures that hold, as anybody can make it."""
    answer, _ = decode(token, asn1Spec=rfc3161.TimeStampResp())
    signed, _ = decode(answer["timeStampToken"]["content"], asn1Spec=rfc5652.SignedData())
    r, s = decode_dss_signature(bytes(signed["signerInfos"][0]["signature"]))
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    assert SECP256R1().key_size == 256 and 0 < s < order
    signed["signerInfos"][0]["signature"] = OctetString(encode_dss_signature(r, order - s))
    answer["timeStampToken"]["content"] = encode(signed)
    return encode(answer)


def said_more(token: bytes) -> bytes:
    """The same stamp with a text about its status, which nobody signs."""
    answer, _ = decode(token, asn1Spec=rfc3161.TimeStampResp())
    answer["status"]["statusString"].append("another try")
    return encode(answer)


@pytest.mark.parametrize("change", [turned, said_more])
def test_an_owner_makes_no_new_try_of_one_stamp(stamped, authority, tmp_path, change):
    """Else the key could be drawn again and again without the authority."""
    drawing, token = stamped
    changed = tmp_path / "changed.tsr"
    changed.write_bytes(change(token.read_bytes()))
    data = drawing.with_suffix(".commitment.json").read_bytes()
    assert changed.read_bytes() != token.read_bytes()
    assert verify_timestamp(changed.read_bytes(), data, authority.root, changed)  # it holds as well
    assert complete(drawing, changed).key == complete(drawing, token).key


def test_no_changed_stamp_that_holds_gives_another_key(authority):
    token = request_timestamp(authority.url, b"data")
    true = read_stamp(token, b"data", "t.tsr")

    @settings(max_examples=150, deadline=None)
    @any_of(st.integers(0, len(token) - 1), st.integers(0, 7))
    def flip(place, bit):
        bad = token[:place] + bytes([token[place] ^ (1 << bit)]) + token[place + 1 :]
        try:
            verify_timestamp(bad, b"data", authority.root, "t.tsr")
            assert read_stamp(bad, b"data", "t.tsr") == true
        except MedmarkError as error:
            assert str(error).isprintable()

    flip()


@settings(max_examples=60, deadline=None)
@any_of(st.binary(max_size=200))
def test_junk_is_no_stamp(data):
    with pytest.raises(MedmarkError, match="no time stamp: t.tsr"):
        read_stamp(data, b"data", "t.tsr")


# from the command to the evidence


def test_how_a_drawing_reaches_the_secrets_of_a_run(medmark, stamped, source, tmp_path, monkeypatch):
    """As the names of files: parameters stand in logs."""
    from kfp import dsl

    given = []

    def work(pipeline, arguments, folder, debug):
        given.append(arguments)
        raise MedmarkError("stopped here")

    monkeypatch.setattr("medmark.pipelines.mark_release.run.run_locally", work)
    monkeypatch.chdir(tmp_path)
    drawing, token = stamped
    run = ["run", "mark-release", "--data", source, "--out", tmp_path / "out"]
    code, _, err = medmark(*run, "--drawing", drawing.name, "--drawn-with", token.name)
    assert code == 1 and "stopped here" in err
    (arguments,) = given
    assert set(arguments["drawing"]) == {"file", "value", "state"} and arguments["seed"] == ""
    secret = json.loads(drawing.read_bytes())["secret"]
    key = complete(drawing, token).key
    assert all(text not in str(arguments) for text in (secret, key.mark_key, str(key.seed)))
    monkeypatch.chdir("/")
    artifact = dsl.Artifact(uri=str(tmp_path / "secrets"), metadata={})
    draw_secrets_component.python_func(
        seed="", for_figures=False, patients={}, drawing=arguments["drawing"], drawn_for="run", secrets=artifact
    )
    drawn = read_secrets(tmp_path / "secrets")
    assert (drawn.seed, drawn.mark_key) == (key.seed, key.mark_key)
    assert all(text not in str(artifact.metadata) for text in (secret, key.mark_key, str(key.seed)))
    monkeypatch.chdir(tmp_path)
    states = [arguments["drawing"]["state"]]
    token.write_bytes(said_more(token.read_bytes()))
    medmark(*run, "--drawing", drawing.name, "--drawn-with", token.name)
    states.append(given[-1]["drawing"]["state"])
    medmark(*run)
    assert len(set(states)) == 2 and given[-1]["drawing"] == {}


def test_what_is_wrong_with_a_drawing_is_said_before_the_run_starts(medmark, stamped, source, tmp_path, monkeypatch):
    monkeypatch.setattr("medmark.pipelines.mark_release.run.run_locally", lambda *_: pytest.fail("it ran"))
    drawing, token = stamped
    for options, said in [
        (["--drawing", drawing], "--drawing and --drawn-with, or neither"),
        (["--drawn-with", token], "--drawing and --drawn-with, or neither"),
        (["--drawing", drawing, "--drawn-with", token, "--seed", 7], "leave out --seed"),
        (["--drawing", drawing, "--drawn-with", drawing], "no time stamp"),
    ]:
        code, _, err = medmark("run", "mark-release", "--data", source, "--out", tmp_path / "out", *options)
        assert code == 1 and said in err and err.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_secrets_come_from_a_seed_or_a_drawing(stamped, tmp_path):
    with pytest.raises(MedmarkError, match="give one of them"):
        draw_secrets(tmp_path / "secrets", 7, None, complete(*stamped))
    assert not (tmp_path / "secrets").exists()


def test_evidence_keeps_the_draw_private_and_an_update_takes_it_on(stamped, tmp_path):
    evidence = drawn_evidence(tmp_path / "e", complete(*stamped))
    assert stat.S_IMODE((evidence / "draw.json").stat().st_mode) == 0o600
    assert "draw.json" in read_evidence(evidence)["files"]
    assert "draw.json" in copy_evidence(evidence, tmp_path / "next", read_evidence(evidence))
    (evidence / "draw.json").unlink()
    with pytest.raises(MedmarkError, match="evidence changed or missing: .*draw.json"):
        check_draw(evidence)


# checking


def test_a_draw_with_a_stamp_is_verifiable(stamped, authority, tmp_path):
    evidence = drawn_evidence(tmp_path / "e", complete(*stamped))
    found = check_draw(evidence, timestamp_roots=authority.root)
    about = read_stamp(stamped[1].read_bytes(), stamped[0].with_suffix(".commitment.json").read_bytes(), "t")
    assert found.drawn == "verifiable"
    assert (
        f"stamp {about.serial:#x} of {about.time.isoformat()[:19]}Z" in found.says and "asked for again" in found.says
    )
    assert "nobody but its authority can choose" in found.says  # which may work with the owner
    unchecked = check_draw(evidence)
    assert unchecked.drawn == "self" and "give the authority's root certificates" in unchecked.says


def test_a_draw_with_a_beacon_needs_the_auditors_own_copy_and_the_stamp(beaconed, authority, tmp_path):
    drawing, pulse = beaconed
    evidence, own = drawn_evidence(tmp_path / "e", complete(drawing, pulse)), tmp_path / "own"
    own.write_bytes(VALUE)
    found = check_draw(evidence, timestamp_roots=authority.root, beacon=own)
    assert found.drawn == "verifiable" and repr(BEACON) in found.says and "after the time of the stamp" in found.says
    for given, missing in [
        ({"timestamp_roots": authority.root}, "give what the beacon itself says"),
        ({"beacon": own}, "give the authority's root certificates"),
        ({}, "root certificates, and the beacon's value"),
    ]:
        found = check_draw(evidence, **given)
        assert found.drawn == "self" and missing in found.says
    own.write_bytes(VALUE + b" ")
    with pytest.raises(MedmarkError, match="the beacon gave another value"):
        check_draw(evidence, timestamp_roots=authority.root, beacon=own)


def test_old_evidence_is_self_drawn(tmp_path):
    evidence = drawn_evidence(tmp_path / "e", None)
    assert "draw.json" not in read_evidence(evidence)["files"]
    assert vars(check_draw(evidence)) == {"drawn": "self", "says": SELF_DRAWN}
    assert check_draw(Path(FROZEN).parent / "evidence-v1").drawn == "self"
    with pytest.raises(MedmarkError, match="no beacon to compare with"):
        check_draw(evidence, beacon=FROZEN / "pulse")


def test_a_beacon_that_was_not_named_is_refused(stamped, authority, tmp_path):
    evidence = drawn_evidence(tmp_path / "e", complete(*stamped))
    with pytest.raises(MedmarkError, match="no beacon to compare with"):
        check_draw(evidence, timestamp_roots=authority.root, beacon=FROZEN / "pulse")


def test_an_authority_that_the_auditor_does_not_trust(stamped, start_authority, tmp_path):
    """An owner can run one and sign until a key suits."""
    evidence = drawn_evidence(tmp_path / "e", complete(*stamped))
    with pytest.raises(MedmarkError, match="time stamp does not hold: .*draw.json"):
        check_draw(evidence, timestamp_roots=start_authority().root)


@pytest.mark.parametrize("kind", ["stamped", "beaconed"])
@pytest.mark.parametrize(
    "part", ["secret", "commitment", "value", "time_stamp", "kind", "schema_version", "seed", "more"]
)
def test_every_changed_part_of_a_draw_is_noticed(request, authority, tmp_path, kind, part):
    """Whoever holds the evidence can change all of it; what it then claims must not hold."""
    drawing, value = request.getfixturevalue(kind)
    evidence = drawn_evidence(tmp_path / "e", complete(drawing, value))
    new_drawing(tmp_path / "other.json", beacon=BEACON if kind == "beaconed" else None)
    other_stamp = base64.b64encode(stamp(tmp_path / "other.json", authority).read_bytes()).decode()
    held, other = (json.loads(path.read_bytes()) for path in (evidence / "draw.json", tmp_path / "other.json"))
    data = drawing.with_suffix(".commitment.json").read_bytes()
    again = base64.b64encode(request_timestamp(authority.url, data)).decode()
    bad = {
        "secret": [other["secret"], "00", None],
        "commitment": [other["commitment"], held["commitment"].replace("1", "2", 1), 7],
        "value": [again, other_stamp, ""] if kind == "stamped" else [base64.b64encode(b"better").decode(), "", None],
        "time_stamp": [again, ""] if kind == "stamped" else [other_stamp, None, ""],
        "kind": ["beacon" if kind == "stamped" else "time stamp", "", None],
        "schema_version": [2],
        "more": [1],
        "seed": [],
    }[part]
    for content in bad:
        change_draw(evidence, **{part: content})
        for given in ({}, {"timestamp_roots": authority.root}):
            with pytest.raises(
                MedmarkError, match="damaged draw|not drawn as|time stamp of something|no time stamp"
            ) as no:
                check_draw(evidence, **given)
            assert str(no.value).isprintable()
        change_draw(evidence, **{part: held[part]} if part in held else {})
    if part == "seed":
        path = evidence / "evidence.json"
        path.write_bytes(canonical_json(json.loads(path.read_bytes()) | {"seed": 5}))
        with pytest.raises(MedmarkError, match="the key was not drawn as .*draw.json says"):
            check_draw(evidence, timestamp_roots=authority.root)


def forge(evidence: Path, key: DerivedKey, **parts) -> None:
    """Changes the draw and gives the evidence the seed that follows from it: an owner who draws until a key suits."""
    path = evidence / "evidence.json"
    path.write_bytes(canonical_json(json.loads(path.read_bytes()) | {"seed": key.seed}))
    change_draw(evidence, **parts)


@pytest.mark.parametrize("kind", ["stamped", "beaconed"])
def test_a_secret_that_was_chosen_after_the_value_is_refused(request, authority, tmp_path, kind):
    drawing, value = request.getfixturevalue(kind)
    evidence, chosen = drawn_evidence(tmp_path / "e", complete(drawing, value)), bytes(range(32))
    data = drawing.with_suffix(".commitment.json").read_bytes()
    rests = VALUE if kind == "beaconed" else read_stamp(value.read_bytes(), data, value).signature
    forge(evidence, derived_key(chosen, rests), secret=chosen.hex())
    with pytest.raises(MedmarkError, match="its secret does not open its commitment"):
        check_draw(evidence, timestamp_roots=authority.root)
    public = json.loads(data) | {"secret_sha256": hashlib.sha256(b"medmark drawing, version 1\n" + chosen).hexdigest()}
    change_draw(evidence, commitment=canonical_json(public).decode())
    with pytest.raises(MedmarkError, match="time stamp of something else"):
        check_draw(evidence, timestamp_roots=authority.root)


def test_a_beacon_that_was_chosen_after_its_value_is_refused(stamped, beaconed, authority, tmp_path):
    """Neither another round of the beacon, nor a beacon for a drawing that named none."""
    for drawing, value in (stamped, beaconed):
        evidence = drawn_evidence(tmp_path / drawing.stem, complete(drawing, value))
        held = json.loads((evidence / "draw.json").read_bytes())
        named = canonical_json(json.loads(held["commitment"]) | {"beacon": "a better round"}).decode()
        stamp_then = held["time_stamp"] or held["value"]
        value, parts = base64.b64encode(b"better").decode(), {"kind": "beacon", "time_stamp": stamp_then}
        forge(evidence, derived_key(bytes.fromhex(held["secret"]), b"better"), commitment=named, value=value, **parts)
        (tmp_path / "own").write_bytes(b"better")
        with pytest.raises(MedmarkError, match="time stamp of something else"):
            check_draw(evidence, timestamp_roots=authority.root, beacon=tmp_path / "own")


def test_a_stamp_of_another_drawing_is_refused(stamped, authority, tmp_path):
    evidence = drawn_evidence(tmp_path / "e", complete(*stamped))
    new_drawing(tmp_path / "other.json")
    token, secret = stamp(tmp_path / "other.json", authority).read_bytes(), read_drawing(stamped[0]).secret
    signature = read_stamp(token, (tmp_path / "other.commitment.json").read_bytes(), "t").signature
    forge(evidence, derived_key(secret, signature), value=base64.b64encode(token).decode())
    with pytest.raises(MedmarkError, match="time stamp of something else"):
        check_draw(evidence, timestamp_roots=authority.root)


def test_a_whole_other_draw_gives_another_seed(stamped, authority, tmp_path):
    evidence = drawn_evidence(tmp_path / "e", complete(*stamped))
    new_drawing(tmp_path / "other.json")
    other = complete(tmp_path / "other.json", stamp(tmp_path / "other.json", authority))
    change_draw(evidence, **json.loads(other.text))
    with pytest.raises(MedmarkError, match="not drawn as"):
        check_draw(evidence, timestamp_roots=authority.root)


# where people read it


@pytest.fixture
def committed(beaconed, authority, tmp_path):
    """Evidence that was drawn with a beacon, and the options that check its commitment."""
    evidence = drawn_evidence(tmp_path / "e", complete(*beaconed))
    new_key(tmp_path / "keys", PASSPHRASE)
    key = load_private(tmp_path / "keys" / "medmark.key", PASSPHRASE)
    commit(RELEASE, evidence, key, tmp_path / "commitment.json", timestamp_url=authority.url)
    return evidence, ["--public-key", tmp_path / "keys" / "medmark.pub", "--timestamp-roots", authority.root]


def test_verify_commitment_says_how_the_key_was_drawn(medmark, committed, beaconed, tmp_path):
    evidence, options = committed
    command, (_, pulse) = ["verify-commitment", tmp_path / "commitment.json", *options], beaconed
    code, out, err = medmark(*command, "--evidence", evidence, "--beacon", pulse)
    (line,) = re.findall(r"^key of the mark: (.*)$", out, re.M)
    assert (code, err) == (0, "") and line.startswith("the key rests on") and "cannot be asked again" in line
    code, out, _ = medmark(*command, "--evidence", evidence)
    assert code == 0 and "was not compared" in out
    code, out, _ = medmark(*command)
    assert code == 0 and "key of the mark" not in out
    code, _, err = medmark(*command, "--beacon", pulse)
    assert code == 1 and "give --evidence" in err
    pulse.write_bytes(b"other")
    code, _, err = medmark(*command, "--evidence", evidence, "--beacon", pulse)
    assert code == 1 and "the beacon gave another value" in err and err.count("\n") == 1


def test_an_audit_is_told_before_it_asks_anybody(medmark, committed, beaconed, tmp_path, monkeypatch):
    evidence, options = committed
    found = []

    def ask(evidence_dir, opened, out_dir, *, committed, draw):
        found.append(draw)
        raise MedmarkError("stopped here")

    monkeypatch.setattr("medmark.components.verification.audit.audit_suspects", ask)
    monkeypatch.setattr("medmark.components.verification.audit.open_suspect", lambda *_, **__: None)
    command = ["audit", evidence, "--suspect", "x.onnx", "--out", tmp_path / "out", "--beacon", beaconed[1]]
    assert "stopped here" in medmark(*command, "--commitment", tmp_path / "commitment.json", *options)[2]
    assert "stopped here" in medmark(*command, *options[2:])[2]  # the stamp of the drawing, without a commitment
    assert [draw.drawn for draw in found] == ["verifiable", "verifiable"]
    beaconed[1].write_bytes(b"other")
    code, _, err = medmark(*command, *options[2:])
    assert code == 1 and "the beacon gave another value" in err and len(found) == 2


def test_an_audit_says_how_the_key_was_drawn(tmp_path):
    from made_up_evidence import Model, write_evidence

    made = audit_suspects(write_evidence(tmp_path), [Model("adversary", reaction=7)], tmp_path / "out")
    assert made["draw"] == {"drawn": "self", "says": SELF_DRAWN} and SELF_DRAWN in made["cautions"]
    assert json.loads((tmp_path / "out" / "audit.json").read_bytes())["draw"] == made["draw"]


def test_a_pipeline_takes_the_beacons_value_as_text(committed, beaconed, authority, tmp_path, monkeypatch):
    from kfp import dsl
    from medmark.components.verification.component import audit_component

    found = []

    def ask(evidence_dir, opened, out_dir, *, committed, draw):
        found.append(draw)
        raise MedmarkError("stopped here")

    monkeypatch.setattr("medmark.components.verification.audit.audit_suspects", ask)
    monkeypatch.setattr("medmark.components.verification.audit.open_suspect", lambda *_, **__: None)
    evidence, texts = committed[0], {"timestamp_roots": authority.root.read_text()}
    given = {"contract": {}, "connection": {}, "suspects": ["x.onnx"], "evidence": dsl.Artifact(uri=str(evidence))}
    given |= {"audit": dsl.Artifact(uri=str(tmp_path / "out")), "report": dsl.HTML(uri=str(tmp_path / "out.html"))}
    texts["beacon"] = base64.b64encode(beaconed[1].read_bytes()).decode()
    with pytest.raises(MedmarkError, match="stopped here"):
        audit_component.python_func(**given, commitment=texts)
    assert [draw.drawn for draw in found] == ["verifiable"]
    with pytest.raises(MedmarkError, match="beacon is not base64"):
        audit_component.python_func(**given, commitment={"beacon": "?"})
    with pytest.raises(MedmarkError, match="no beacon|without a commitment|another value"):
        audit(evidence, ["x.onnx"], tmp_path / "out", beacon=evidence / "evidence.json")
