"""Whatever is changed in a chain of releases is noticed, and the right object is named."""

import base64
import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
from chain_case import make_chain
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from medmark.components.base.digests import canonical_json
from medmark.components.dataset.release import Release
from medmark.components.lineage.chain import verify_chain
from medmark.components.lineage.keys import key_id
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

KEY, ADVERSARY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
RELEASES = 10
MUTATIONS = 320
FILES = (
    "shards/part-00000.parquet",
    "release.json",
    "changes.json",
    "lineage.json",
    "commitment.json",
)
SIGNED = ("lineage.json", "commitment.json")


@pytest.fixture(scope="module")
def authority_url(request):
    """Of a real time stamp authority; None where there is no openssl, and time stamps are then not part of the chain."""
    return request.getfixturevalue("the_authority") if shutil.which("openssl") else None


@pytest.fixture(scope="module")
def chain(tmp_path_factory, authority_url):
    url = authority_url.url if authority_url else None
    made = make_chain(tmp_path_factory.mktemp("chain"), KEY, RELEASES, timestamp_url=url)
    made.roots = authority_url.root if authority_url else None
    made.files = [*FILES, "commitment.tsr"] if url else list(FILES)
    return made


def verify(chain) -> dict:
    options = {"raw": chain.raw, "sources": chain.sources, "clean": chain.clean, "timestamp_roots": chain.roots}
    return verify_chain(chain.head, KEY.public_key(), **options)


def any_file(chain, rng, *, of=None) -> Path:
    """A file of any release; ``changes.json`` is in updates only."""
    name = rng.choice(of or chain.files)
    return rng.choice(chain.releases[1:] if name == "changes.json" else chain.releases) / name


def flip(chain, rng):
    path = any_file(chain, rng)
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return [path]


def flip_raw(chain, rng):
    path = rng.choice([*sorted(path for path in chain.raw.rglob("*") if path.is_file()), chain.clean / "release.json"])
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return [path]


def truncate(chain, rng):
    path = any_file(chain, rng)
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])
    return [path]


def extend(chain, rng):
    path = any_file(chain, rng)
    path.write_bytes(path.read_bytes() + rng.choice([b"\n", b"\0", b"{}"]))
    return [path]


def remove(chain, rng):
    path = any_file(chain, rng)
    path.unlink()
    return [path]


def rename(chain, rng):
    path = any_file(chain, rng)
    path.rename(path.with_name(f"{path.name}.bak"))
    return [path]


def different(chain, rng, **kind):
    """Two files of one name in two releases that differ."""
    while True:
        one = any_file(chain, rng, **kind)
        other = rng.choice(chain.releases) / one.relative_to(one.parents[len(one.relative_to(chain.root).parts) - 2])
        if other.is_file() and other.read_bytes() != one.read_bytes():
            return one, other


def swap(chain, rng):
    one, other = different(chain, rng)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    return [one, other]


def replay(chain, rng):
    """An older object in the place of a newer one, well signed as it is."""
    one, other = different(chain, rng)
    older, newer = sorted(
        (one, other), key=lambda path: chain.releases.index(chain.root / path.relative_to(chain.root).parts[0])
    )
    newer.write_bytes(older.read_bytes())
    return [newer]


def replay_release(chain, rng):
    """A whole older release under the digest of a newer one."""
    older, newer = sorted(rng.sample(range(RELEASES), 2))
    shutil.rmtree(chain.releases[newer])
    shutil.copytree(chain.releases[older], chain.releases[newer])
    return [chain.releases[newer] / "release.json"]


def remove_parent(chain, rng):
    folder = rng.choice(chain.releases[:-1])
    shutil.rmtree(folder)
    return [folder]


def rename_parent(chain, rng):
    folder = rng.choice(chain.releases[:-1])
    folder.rename(folder.with_name("ab" * 32))
    return [folder]


def swap_signatures(chain, rng):
    name = rng.choice(SIGNED)
    paths = [folder / name for folder in rng.sample(chain.releases, 2)]
    contents = [json.loads(path.read_bytes()) for path in paths]
    for path, content, other in zip(paths, contents, reversed(contents), strict=True):
        path.write_bytes(canonical_json(content | {"signatures": other["signatures"]}))
    return paths


def signed_again(path, key, named, change=None):
    """The same statement, or another, in an envelope that another key signed."""
    statement = json.loads(base64.b64decode(json.loads(path.read_bytes())["payload"]))
    if change:
        change(statement["predicate"])
    envelope = Envelope(canonical_json(statement), "application/vnd.in-toto+json", {})
    envelope.sign(CryptoSigner(key, SSlibKey.from_crypto(key.public_key(), keyid=named)))
    path.write_bytes(canonical_json(envelope.to_dict()))
    return [path]


def sign_with_another_key(chain, rng):
    """Under the adversary's key id, or passed off under the owner's."""
    path = any_file(chain, rng, of=SIGNED)
    return signed_again(path, ADVERSARY, key_id(rng.choice([KEY, ADVERSARY]).public_key()))


def sign_another_record(chain, rng):
    """The owner's own key on another story: what earlier releases say is fixed by the later ones."""

    def change(predicate):
        predicate["record"]["verdict"] = "not_owned"

    return signed_again(rng.choice(chain.releases[:-1]) / "lineage.json", KEY, key_id(KEY.public_key()), change)


def edit_text(chain, rng):
    """Well-formed JSON with another value."""
    path = any_file(chain, rng, of=("release.json", "changes.json"))
    content = json.loads(path.read_bytes())
    content[rng.choice(sorted(content))] = rng.choice([None, [], "ab" * 32, 7])
    path.write_bytes(canonical_json(content))
    return [path]


KINDS = [
    *(flip, flip, flip, flip, flip_raw, truncate, truncate, extend, remove, rename, swap, swap, replay, replay),
    *(
        replay_release,
        remove_parent,
        rename_parent,
        swap_signatures,
        sign_with_another_key,
        sign_another_record,
        edit_text,
    ),
]


def test_every_mutation_is_noticed_and_the_right_object_named(chain):
    """Byte flips, truncation, swaps, replays, lost parents, foreign signatures: all over all kinds of objects."""
    untouched = verify(chain)
    assert untouched["holds"] and untouched["broken"] is None and len(untouched["releases"]) == RELEASES
    base = chain.root.parent
    missed, named_wrong, hit = [], [], Counter()
    for number in range(MUTATIONS):
        rng = random.Random(number)
        act = KINDS[number % len(KINDS)]
        before = {path: path.read_bytes() for path in files_of(base)}
        touched = act(chain, rng)
        result = verify(chain)
        after = {path: path.read_bytes() for path in files_of(base)}
        assert before != after, f"{act.__name__} {number} changed nothing"
        wanted = {shown(chain, path) for path in touched}
        hit.update({path.name for path in touched})
        if result["holds"]:
            missed.append((number, act.__name__, wanted))
        elif result["broken"]["path"] not in wanted:
            named_wrong.append((number, act.__name__, wanted, result["broken"]))
        else:
            assert "; " in result["broken"]["says"], result["broken"]  # what is wrong; what to do
        restore(base, before, after)
    assert not missed and not named_wrong, (missed, named_wrong)
    assert verify(chain) == untouched
    assert {Path(name).name for name in chain.files} <= set(hit), hit


def files_of(base: Path) -> list[Path]:
    return [path for path in base.rglob("*") if path.is_file()]


def restore(base: Path, before: dict, after: dict) -> None:
    for path in after.keys() - before.keys():
        path.unlink()
    for folder in base.glob("releases/*"):
        if not any(folder.rglob("*.*")):
            shutil.rmtree(folder)
    for path, data in before.items():
        if after.get(path) != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def shown(chain, path: Path) -> str:
    """How the result names a file."""
    if path.is_relative_to(chain.root):
        return path.relative_to(chain.root).as_posix()
    return path.relative_to(chain.raw.parent).as_posix()


def test_every_byte_of_the_small_files_counts(chain):
    """Each byte in turn of the newest signed files, of one release's ``release.json`` and of its changes."""
    folder = chain.releases[1]
    small = [folder / name for name in ("lineage.json", "release.json", "changes.json", "commitment.json")]
    assert Release(folder).parent == chain.releases[0].name
    rng = random.Random(5)
    for path in small:
        data = path.read_bytes()
        for place in rng.sample(range(len(data)), 12):
            spoilt = bytearray(data)
            spoilt[place] ^= 1 << rng.randrange(8)
            path.write_bytes(spoilt)
            result = verify_chain(folder, KEY.public_key())
            assert result["broken"] and result["broken"]["path"] == f"{folder.name}/{path.name}", (path.name, place)
        path.write_bytes(data)
    assert verify_chain(folder, KEY.public_key())["holds"]
