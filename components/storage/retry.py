"""Trying requests to an object store again: which failures may pass, and what the others mean in one line."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar
from xml.etree.ElementTree import ParseError

from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import one_line
from medmark.components.storage.place import Place
from minio.error import InvalidResponseError, S3Error, ServerError
from urllib3.exceptions import HTTPError, SSLError

T = TypeVar("T")
TRIES = 5  # of one request or file; arbitrary
BACKOFF = 0.5  # seconds before the second try, doubled each time: 7.5 s in all; arbitrary
KEY_REFUSED = {"SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "ExpiredToken", "InvalidClientTokenId"}
STORE_FULL = {"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "EntityTooLarge"}
PASSES = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "Busy"}


class Interrupted(MedmarkError):
    """A transfer ended early; the same command can go on from there."""


class Denied(MedmarkError):
    """The store knows these credentials and refuses them this place."""


class Again(Exception):
    """A try failed in a way that may pass."""


class Retries:
    """Runs requests to one store.

    Args:
        endpoint: for messages.
        secrets: that no message may repeat.
    """

    def __init__(self, endpoint: str, secrets: list[str]):
        self._endpoint, self._secrets = endpoint, secrets

    def run(self, where: Place, attempt: Callable[[], T]) -> T:
        """What an attempt returns, after as many as are allowed.

        Raises:
            MedmarkError: the store refuses it, answers nonsense, or does not answer; or the local disk fails.
        """
        wait = BACKOFF
        for left in range(TRIES - 1, -1, -1):
            try:
                return attempt()
            except (S3Error, ServerError, InvalidResponseError, HTTPError, Again) as error:
                if not left or not _may_pass(error):
                    raise self._explained(
                        error, where
                    ) from None  # the cause may quote a server that echoes credentials
                time.sleep(wait)
                wait *= 2
            except (ParseError, ValueError, TypeError, AttributeError) as error:  # what the client makes of nonsense
                text = one_line(error, hidden=self._secrets)
                raise MedmarkError(
                    f"no object store's answer from {self._endpoint} ({text}); check the address"
                ) from None
            except OSError as error:
                raise local_error(error, error.filename or where) from error
        raise AssertionError("unreachable")

    def _explained(self, error: Exception, where: Place) -> MedmarkError:
        """What the server says, in one line with a remedy."""
        code = error.code if isinstance(error, S3Error) else ""
        if code in KEY_REFUSED:
            return MedmarkError(f"credentials refused by {self._endpoint} ({code}); check access key and secret key")
        if code == "RequestTimeTooSkewed":
            return MedmarkError(f"this machine's clock differs too much from that of {self._endpoint}; set the clock")
        if code == "NoSuchBucket":
            return MedmarkError(f"no bucket {where.bucket} at {self._endpoint}; make it or correct the address")
        if code in ("AccessDenied", "AllAccessDisabled"):
            return Denied(
                f"access denied: {where} at {self._endpoint}; check that the bucket exists and that these credentials may use it"
            )
        if code == "PreconditionFailed":
            return Interrupted(f"object changed while it was read: {where}; run the same command again")
        if code in STORE_FULL or _status(error) == 507:
            return Interrupted(f"object store is full: {self._endpoint} ({code}); free space there, then run again")
        if isinstance(error, SSLError) or "certificate verify failed" in str(error):
            return MedmarkError(
                f"not trusted: {self._endpoint} ({one_line(error, hidden=self._secrets)}); set MEDMARK_S3_CA to its authority's PEM file"
            )
        text = one_line(f"{code} {error.message}" if isinstance(error, S3Error) else error, hidden=self._secrets)
        if _may_pass(error):
            return Interrupted(
                f"no answer from {self._endpoint} after {TRIES} tries ({text}); is it up? run again to go on"
            )
        return MedmarkError(f"refused by {self._endpoint}: {where} ({text}); check address and rights")


def local_error(error: OSError, where: object) -> MedmarkError:
    """For the caller to raise: what the local disk says."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Interrupted(f"disk full: {where} ({error.strerror}); free space, then run again to go on")
    return MedmarkError(f"cannot use: {where} ({error.strerror or error}); check the path and its rights")


def _status(error: Exception) -> int:
    """HTTP status of an answer that is an error, 0 if there was no answer."""
    if isinstance(error, S3Error):
        return error.response.status
    if isinstance(error, ServerError):
        return error.status_code
    if isinstance(error, InvalidResponseError):
        return error._code  # the client has no other way to it
    return 0


def _may_pass(error: Exception) -> bool:
    """Whether another try may help."""
    if isinstance(error, SSLError) or "certificate verify failed" in str(error):
        return False
    if isinstance(error, (HTTPError, Again)):
        return True
    status = _status(error)
    return status == 429 or (500 <= status and status not in (501, 507)) or getattr(error, "code", "") in PASSES
