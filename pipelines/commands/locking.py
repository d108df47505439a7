"""``medmark unlock``, ``grant`` and ``certificate``: what owners and recipients do with a locked release."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from medmark.pipelines.commands.options import Debug, Out, PublicKey

app = typer.Typer()
certificate_app = typer.Typer(no_args_is_help=True, help="Sign, issue and check certificates of locked images.")
app.add_typer(certificate_app, name="certificate")

OWN_KEY = "a private key belongs in no object store"
HERE = "give a file on this machine"
Locked = Annotated[str, typer.Argument(help="The locked release, here or at s3://bucket/prefix/DIGEST.")]
LockEvidence = Annotated[str, typer.Argument(help="Private evidence of the locked release.")]
LockingKey = Annotated[str, typer.Option("--key", help="Your locking.key.")]
GrantFile = Annotated[
    str | None, typer.Option("--grant", help="Grant for your key; the one in the evidence if not given.")
]


@app.command("unlock")
def unlock_command(
    release: Locked,
    locks: Annotated[str, typer.Argument(help="Its private evidence, or locks.parquet from it.")],
    key: LockingKey,
    out: Out,
    grant: GrantFile = None,
    debug: Debug = False,
) -> None:
    """Take the logos off a locked release: every image as it was, bit by bit, or none.

    The environment variable MEDMARK_KEY_PASSPHRASE gives the key's passphrase; without it, medmark asks.
    """
    from medmark.components.delivery.places import Places, local
    from medmark.components.lineage.keys import ask_passphrase, load_locking_private
    from medmark.components.locking.unlock import unlock_release

    private = load_locking_private(local(key, OWN_KEY), ask_passphrase())
    with Places() as places:
        made = places.write(out)
        read = (places.read(release), places.read(locks, raw=locks.endswith(".parquet"), private=True))
        file = places.read(grant, raw=True) if grant else None
        opened = unlock_release(*read, made, private, grant_file=file)
        print(f"{len(opened)} images unlocked: {out}")


@app.command("grant")
def grant_command(
    evidence: LockEvidence,
    key: LockingKey,
    to: Annotated[str, typer.Option("--to", help="The recipient's locking.pub, or that of your next key.")],
    out: Annotated[str, typer.Option("--out", help="File to write the grant to.")],
    grant: GrantFile = None,
    debug: Debug = False,
) -> None:
    """Let another key open a locked release; hand the grant out with locks.parquet."""
    from medmark.components.delivery.places import Places, local
    from medmark.components.lineage.files import read_small, write_new
    from medmark.components.lineage.keys import ask_passphrase, load_locking_private, locking_public
    from medmark.components.locking.seal import write_grant
    from medmark.components.locking.unlock import grant_access

    private, file = load_locking_private(local(key, OWN_KEY), ask_passphrase()), local(out, HERE)
    with Places() as places:
        recipient = locking_public(
            read_small(places.read(to, raw=True), "public key", "get the recipient's locking.pub"), to
        )
        given = places.read(grant, raw=True) if grant else None
        made = grant_access(places.read(evidence, private=True), private, recipient, grant_file=given)
    write_new(file, write_grant(made), 0o600)
    print(f"grant for the key {made.recipient[:16]}...: {file}")


@certificate_app.command("sign")
def certificate_sign(
    release: Annotated[str, typer.Argument(help="The locked release, a folder.")],
    evidence: LockEvidence,
    key: Annotated[str, typer.Option("--key", help="Your medmark.key.")],
    debug: Debug = False,
) -> None:
    """Sign the list of a locked release's certificates, and write certificates.json into the release."""
    from medmark.components.delivery.places import Places, local
    from medmark.components.lineage.keys import ask_passphrase, load_private
    from medmark.components.locking.certificate import CERTIFICATES, sign_certificates

    folder = local(release, "sign its certificates before it is published")
    private = load_private(local(key, OWN_KEY), ask_passphrase())
    with Places() as places:
        root = sign_certificates(folder, places.read(evidence, private=True), private)
    print(f"root: {root}\n{folder / CERTIFICATES}")


@certificate_app.command("issue")
def certificate_issue(
    release: Locked,
    evidence: LockEvidence,
    image_id: Annotated[str, typer.Argument(help="Id of the image.")],
    out: Annotated[str, typer.Option("--out", help="File to write.")],
    debug: Debug = False,
) -> None:
    """Write the certificate of one image; it says where the logo is, so hand it out with care."""
    from medmark.components.delivery.places import Places, local
    from medmark.components.locking.certificate import issue_certificate

    file = local(out, HERE)
    with Places() as places:
        issue_certificate(places.read(release), places.read(evidence, private=True), image_id, file)
    print(file)


@certificate_app.command("verify")
def certificate_verify(
    image: Annotated[Path, typer.Argument(help="PNG file of the locked image.")],
    certificate: Annotated[Path, typer.Option("--certificate", help="Its certificate.")],
    public_key: PublicKey,
    debug: Debug = False,
) -> None:
    """Check that an image is the one that its certificate is about; needs no other image."""
    from medmark.components.delivery.places import local
    from medmark.components.lineage.keys import load_public
    from medmark.components.locking.certificate import verify_certificate

    found = verify_certificate(image, certificate, load_public(local(public_key, HERE)))
    entry = found["entry"]
    print(f"image {found['index'] + 1} of {found['images']} in {found['release_name']}, {found['release_digest']}")
    print(
        f"logo {entry['logo'][:16]} at {entry['x']},{entry['y']}, {entry['width']}x{entry['height']} px, opacity {entry['alpha']} of 255"
    )
    print(f"signed by the key {found['signed_by']}")
