"""Time stamps of an authority (RFC 3161) over the bytes of a commitment.

The authority sees only a SHA-256. Its answer is kept whole, so that ``openssl ts -verify`` takes it too. It must be strict DER, as
RFC 3161 demands: authorities that send their certificates in another order are refused.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import requests
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import one_line, reason_of
from medmark.components.lineage.files import read_small
from pyasn1.codec.der.decoder import decode
from pyasn1.error import PyAsn1Error
from pyasn1_modules import rfc5652
from rfc3161_client import (
    HashAlgorithm,
    TimestampRequestBuilder,
    TimeStampResponse,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)
from urllib3.exceptions import HTTPError

TIMEOUT = 30.0  # seconds for the whole answer, arbitrary
MAX_ANSWER = 1 << 18  # bytes, arbitrary; an answer with its certificates has some kB
GRANTED = 0  # RFC 3161, 2.4.2


def request_timestamp(url: str, data: bytes) -> bytes:
    """Asks an authority for a time stamp.

    :func:`verify_timestamp` checks later, with a root certificate, whether to trust the authority.

    Args:
        url: address of the authority; the answer is signed, so http is enough.
        data: bytes to stamp; only their SHA-256 is sent.

    Returns:
        The answer in DER, over ``data`` and with the nonce of this request.

    Raises:
        MedmarkError: the URL is malformed, or the authority does not answer or answers with no time stamp of ``data``.
    """
    url = _checked(url)
    request = TimestampRequestBuilder().data(data).hash_algorithm(HashAlgorithm.SHA256).build()
    answer = _post(url, request.as_bytes())
    try:
        response = decode_timestamp_response(answer)
        if response.status != GRANTED:
            said = "; ".join(response.status_string)
            _fail(url, f"refuses with status {response.status} ({said})", "try again later, or another authority")
        info = response.tst_info
        fits = info.message_imprint.message == hashlib.sha256(data).digest() and info.nonce == request.nonce
    except ValueError as error:
        _fail(url, f"gives no RFC 3161 answer in DER ({error})", "check the URL, or take another authority", error)
    if not fits:
        _fail(url, "stamps something else than it was asked to", "try another authority")
    return answer


def verify_timestamp(token: bytes, data: bytes, roots: str | Path, where: str | Path) -> datetime:
    """Checks a time stamp and returns the time that the authority states, UTC.

    The authority's certificates must have been valid at that time; they may have expired since.

    Args:
        token: the authority's answer in DER.
        data: bytes that it must be over.
        roots: PEM file with the root certificates to trust.
        where: file of the token, for messages.

    Raises:
        MedmarkError: there are no such root certificates, or the token is damaged, over other data, or of another authority.
    """
    pem = read_small(roots, "file of root certificates", "give the time stamp authority's root as PEM")
    try:
        trusted = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise MedmarkError(
            f"no root certificates: {roots}; give the time stamp authority's root certificate as PEM"
        ) from error
    try:
        response: TimeStampResponse = decode_timestamp_response(token)
        VerifierBuilder(roots=trusted).build().verify_message(response, data)
        return response.tst_info.gen_time.astimezone(UTC)
    except (ValueError, VerificationError, x509.ExtensionNotFound) as error:
        reason = reason_of(error)
        raise MedmarkError(
            f"time stamp does not hold: {where} ({reason}); take the file that was written with the commitment, and the"
            f" authority's own root certificate, not {roots}, if that is another's"
        ) from error


@dataclass(frozen=True)
class Stamp:
    """What a time stamp says; trust it only after :func:`verify_timestamp`.

    Attributes:
        signature: what nobody but the authority can make of it, see :func:`read_stamp`.
        serial: number of the stamp at its authority.
        time: that the authority states, UTC.
    """

    signature: bytes
    serial: int
    time: datetime


def read_stamp(token: bytes, data: bytes, where: str | Path) -> Stamp:
    """Reads a time stamp over some data, without asking who made it.

    Everything around the signature can be changed without the authority (status, certificates, unsigned attributes), and what it
    signs can be guessed before. So only the signature is taken, and of an ECDSA signature (r, s) only r: anybody can make
    (r, -s) of it, which holds as well.

    Args:
        token: the authority's answer in DER.
        data: bytes that it must be over.
        where: file of the token, for messages.

    Raises:
        MedmarkError: the token is damaged, or over other data.
    """
    try:
        if len(token) > MAX_ANSWER:
            raise ValueError(f"more than {MAX_ANSWER} bytes")
        response = decode_timestamp_response(token)
        info = response.tst_info
        content, _ = decode(response.time_stamp_token(), asn1Spec=rfc5652.ContentInfo())
        signed, _ = decode(content["content"], asn1Spec=rfc5652.SignedData())
        (signer,) = signed["signerInfos"]
        signature = bytes(signer["signature"])
        fits = response.status == GRANTED and info.message_imprint.message == hashlib.sha256(data).digest()
        stamp = Stamp(_unchangeable(signature), info.serial_number, info.gen_time.astimezone(UTC))
    except (ValueError, PyAsn1Error) as error:
        raise MedmarkError(
            f"no time stamp: {where} ({reason_of(error)}); take the answer of the time stamp authority in DER"
        ) from error
    if not fits:
        raise MedmarkError(f"time stamp of something else: {where}; have the right file stamped, with SHA-256")
    return stamp


def _unchangeable(signature: bytes) -> bytes:
    """What of a signature nobody can change without making another one."""
    try:
        r, _ = decode_dss_signature(signature)
    except ValueError:  # of RSA or Ed25519
        return signature
    return r.to_bytes((r.bit_length() + 7) // 8, "big")


def _post(url: str, question: bytes) -> bytes:
    """Returns the authority's answer, within limits of size and time."""
    deadline = time.monotonic() + TIMEOUT
    headers = {"Content-Type": "application/timestamp-query", "Accept-Encoding": "identity"}
    try:
        with requests.post(
            url,
            data=question,
            headers=headers,
            auth=lambda request: request,  # keeps requests from looking for a password in ~/.netrc
            timeout=TIMEOUT,
            allow_redirects=False,
            stream=True,
        ) as response:
            if response.status_code != 200:
                _fail(url, f"answers with status {response.status_code}", "give the authority's final URL")
            answer = bytearray()
            while chunk := response.raw.read1(1 << 14):  # what has arrived; read() would wait for all of it
                answer += chunk
                if len(answer) > MAX_ANSWER:
                    _fail(url, f"answers with more than {MAX_ANSWER} bytes", "check the URL")
                if time.monotonic() > deadline:
                    raise requests.exceptions.Timeout()
    except requests.exceptions.SSLError as error:
        _fail(url, "is not trusted: its TLS certificate does not hold", "check the URL, or name its CA", error)
    except (requests.RequestException, HTTPError, OSError) as error:
        _fail(url, f"gives no answer within {TIMEOUT:g} s ({error})", "try again later, or another authority", error)
    return bytes(answer)


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        fine = False
    if not fine or not url.isprintable() or parts.username or parts.password or "?" in url or "#" in url:
        raise MedmarkError("the time stamp authority's URL is malformed; give http(s)://host[:port]/path and no more")
    return url


def _fail(url: str, wrong: str, remedy: str, cause: Exception | None = None) -> NoReturn:
    raise MedmarkError(f"time stamp authority {url:.200} {one_line(wrong)}; {remedy}") from cause
