"""Folders in an S3 object store, through the MinIO client, so with any server that speaks S3.

Every object that medmark writes carries the SHA-256 of its content as user metadata. An upload or download that was
interrupted goes on when it is started again: what is there with the right digest is not sent twice. The store is hostile:
names that leave the folder are refused, sizes are bounded, and what is read counts only if its digest is right. Objects of
other tools, which state no digest, are read by :meth:`Store.take` alone.

Credentials appear in no message and no ``repr``.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import json
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

import urllib3
from medmark.components.base.digests import HEX, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from minio import Minio
from minio.datatypes import Object
from minio.error import InvalidResponseError, S3Error, ServerError
from urllib3.exceptions import HTTPError, SSLError

T = TypeVar("T")
REGION = "us-east-1"  # what servers of one's own answer to
PART_BYTES = 16 << 20  # of a multipart upload; each thread holds one in memory; arbitrary
CHUNK_BYTES = 1 << 20  # arbitrary
THREADS = 4  # transfers side by side; arbitrary
TRIES = 5  # of one request or file; arbitrary
BACKOFF = 0.5  # seconds before the second try, doubled each time: 7.5 s in all; arbitrary
TIMEOUT = urllib3.Timeout(connect=10, read=60)  # seconds, for a connection and between two bytes; arbitrary
MAX_OBJECTS = 100_000  # under one prefix; arbitrary
MAX_OBJECT_BYTES = 64 << 30  # arbitrary
MAX_NAME_BYTES = 1024  # S3's limit
MAX_PART_NAME_BYTES = 200  # of one folder or file; file systems allow 255, a partial file's name is longer
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
KEY_REFUSED = {"SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "ExpiredToken", "InvalidClientTokenId"}
STORE_FULL = {"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "EntityTooLarge"}
PASSES = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "Busy"}


class Interrupted(MedmarkError):
    """A transfer ended early; the same command can go on from there."""


class Denied(MedmarkError):
    """The store knows these credentials and refuses them this place."""


@dataclass(frozen=True)
class Place:
    """A prefix in a bucket.

    Attributes:
        bucket: its name.
        prefix: without slashes at its ends; empty for the whole bucket.
    """

    bucket: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def __truediv__(self, name: str) -> Place:
        return Place(self.bucket, f"{self.prefix}/{name}" if self.prefix else name)


def parse(uri: str | Place) -> Place:
    """``s3://bucket/prefix`` as a place.

    Raises:
        MedmarkError: it is none, or the prefix has parts like ``..``.
    """
    if isinstance(uri, Place):
        return uri
    scheme, _, rest = uri.partition("://")
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.strip("/")
    if scheme != "s3" or not BUCKET.fullmatch(bucket) or ".." in bucket:
        raise MedmarkError(f"not a place in an object store: {uri!r}; write s3://bucket/prefix")
    if prefix:
        check_name(prefix, uri)
    return Place(bucket, prefix)


def check_name(name: str, where: object) -> None:
    """Refuses the name of an object that is no plain relative path of a file.

    Raises:
        MedmarkError: the name is absolute, has empty parts, ``.``, ``..``, a backslash or control characters, or is longer
            than 1024 bytes or 200 a part.
    """
    parts = name.split("/")
    plain = name.isprintable() and "\\" not in name and not any(part in ("", ".", "..") for part in parts)
    encoded = [part.encode(errors="surrogatepass") for part in parts]
    short = len(name.encode(errors="surrogatepass")) <= MAX_NAME_BYTES and max(map(len, encoded)) <= MAX_PART_NAME_BYTES
    if not plain or not short:
        raise MedmarkError(f"refused object name: {name[:80]!r} in {where}; rename it to a plain relative path")


class Store:
    """An object store.

    Args:
        endpoint: ``https://host[:port]``; https when no scheme is given. ``http://`` only to this machine itself.
        access_key: names the identity.
        secret_key: its secret.
        region: of the buckets.
        ca: PEM file of the certificate authorities to trust; None: the system's.
        insecure: allow ``http://`` to other machines: data and answers can then be read and changed on the way.

    Attributes:
        endpoint: with its scheme.

    Raises:
        MedmarkError: an endpoint of another form, http to another machine, no such CA file, or a key is missing.
    """

    def __init__(
        self,
        endpoint: str,
        access_key: str,
        secret_key: str,
        *,
        region: str = REGION,
        ca: str | None = None,
        insecure: bool = False,
    ):
        host, secure = _checked_endpoint(endpoint, insecure)
        if not access_key or not secret_key:
            raise MedmarkError(
                f"no credentials for {host}; set MEDMARK_S3_ACCESS_KEY and MEDMARK_S3_SECRET_KEY or MEDMARK_S3_CREDENTIALS"
            )
        if ca is not None and not Path(ca).is_file():
            raise MedmarkError(f"no file of certificate authorities: {ca}; give a PEM file in MEDMARK_S3_CA")
        self.endpoint = f"{'https' if secure else 'http'}://{host}"
        self._secrets = [secret_key, access_key]
        # no retries here: a try starts a whole file again, with a fresh signature; and no redirects to other hosts
        http = urllib3.PoolManager(
            timeout=TIMEOUT, maxsize=THREADS + 1, retries=False, cert_reqs="CERT_REQUIRED", ca_certs=ca
        )
        try:
            self._client = Minio(
                host, access_key=access_key, secret_key=secret_key, secure=secure, region=region, http_client=http
            )
        except ValueError as error:
            raise MedmarkError(f"not an endpoint: {host} ({error}); set MEDMARK_S3_ENDPOINT to https://host") from None

    @classmethod
    def from_environment(cls, identity: str = "") -> Store:
        """The store that the environment describes.

        ``MEDMARK_S3_ENDPOINT``, ``MEDMARK_S3_ACCESS_KEY``, ``MEDMARK_S3_SECRET_KEY`` and ``MEDMARK_S3_REGION``, or the same
        in a private JSON file (``endpoint``, ``access_key``, ``secret_key``, ``region``) that ``MEDMARK_S3_CREDENTIALS``
        names; variables go before the file. ``MEDMARK_S3_CA``: PEM file of authorities. ``MEDMARK_S3_INSECURE=1``: http to
        other machines.

        Args:
            identity: ``evidence`` for ``MEDMARK_S3_EVIDENCE_CREDENTIALS``, ``MEDMARK_S3_EVIDENCE_ENDPOINT`` and so on, where one
                command uses both stores; CA and insecure are the same for both.

        Raises:
            MedmarkError: something is missing, the file is unreadable, or others may read it.
        """
        environment, prefix = os.environ, f"MEDMARK_S3_{identity.upper()}_" if identity else "MEDMARK_S3_"
        path = environment.get(f"{prefix}CREDENTIALS")
        given = _read_credentials(Path(path), f"{prefix}CREDENTIALS") if path else {}
        for name in ("endpoint", "access_key", "secret_key", "region"):
            given[name] = environment.get(f"{prefix}{name.upper()}") or given.get(name)
        if not given["endpoint"]:
            what = f"no object store for {identity} is set" if identity else "no object store is set"
            raise MedmarkError(f"{what}; set {prefix}ENDPOINT or {prefix}CREDENTIALS")
        return cls(
            given["endpoint"],
            given["access_key"] or "",
            given["secret_key"] or "",
            region=given["region"] or REGION,
            ca=environment.get("MEDMARK_S3_CA") or None,
            insecure=environment.get("MEDMARK_S3_INSECURE") == "1",
        )

    @classmethod
    def for_evidence(cls) -> Store:
        """The store of private things: that of :meth:`from_environment` for ``evidence``, if any of its variables is set."""
        own = any(name.startswith("MEDMARK_S3_EVIDENCE_") for name in os.environ)
        return cls.from_environment("evidence" if own else "")

    def __repr__(self) -> str:
        return f"Store({self.endpoint!r})"

    def list(self, uri: str | Place) -> dict[str, int]:
        """Objects under a place: name, relative to it, to size in bytes.

        Raises:
            MedmarkError: a name is hostile, there are more than 100,000, or the store fails.
        """
        return {name: size for name, (size, _) in self.listing(uri).items()}

    def listing(self, uri: str | Place) -> dict[str, tuple[int, str]]:
        """Objects under a place: name, relative to it, to size in bytes and ETag, which is another for other content.

        Empty objects that stand for folders, as browsers of buckets make them, are left out.

        Raises:
            MedmarkError: as :meth:`list`.
        """
        place = parse(uri)
        start = f"{place.prefix}/" if place.prefix else ""

        def attempt() -> dict[str, tuple[int, str]]:
            found: dict[str, tuple[int, str]] = {}
            for item in self._client.list_objects(place.bucket, prefix=start, recursive=True):
                name = item.object_name or ""
                if name == start and item.size == 0:
                    continue
                is_folder = name.endswith("/") and item.size == 0
                check_name(name.removeprefix(start).removesuffix("/" if is_folder else ""), place)
                if not name.startswith(start) or item.size is None or not 0 <= item.size <= MAX_OBJECT_BYTES:
                    raise MedmarkError(f"refused object: {name[:80]!r} in {place}; it has no size, or one too large")
                if not is_folder:
                    found[name.removeprefix(start)] = item.size, item.etag or ""
                if len(found) > MAX_OBJECTS:
                    raise MedmarkError(f"more than {MAX_OBJECTS} objects in {place}; give a longer prefix")
            return found

        return self._retried(place, attempt)

    def folders(self, uri: str | Place) -> list[str]:
        """Names of the prefixes one level below a place, sorted; objects that lie there are left out.

        Raises:
            MedmarkError: as :meth:`list`.
        """
        place = parse(uri)
        start = f"{place.prefix}/" if place.prefix else ""

        def attempt() -> list[str]:
            found = set()
            for item in self._client.list_objects(place.bucket, prefix=start):
                name = (item.object_name or "").removeprefix(start)
                if name.endswith("/"):
                    check_name(name[:-1], place)
                    found.add(name[:-1])
                if len(found) > MAX_OBJECTS:
                    raise MedmarkError(f"more than {MAX_OBJECTS} folders in {place}; give a longer prefix")
            return sorted(found)

        return self._retried(place, attempt)

    def sha256(self, uri: str | Place) -> str | None:
        """SHA-256 that an object's metadata states; None if there is no such object, ``""`` if it states none."""
        found = self._stat(parse(uri))
        return None if found is None else _stated(found)

    def locked_until(self, uri: str | Place) -> str | None:
        """Until when an object is locked against deletion, as the store writes the time; None if it is not."""
        found = self._stat(parse(uri))
        until = found.metadata.get("x-amz-object-lock-retain-until-date") if found and found.metadata else None
        return " ".join(until.split())[:40] if until else None

    def put(self, path: str | Path, uri: str | Place) -> bool:
        """Stores a file as an object, unless it is there already.

        Args:
            path: of the file.
            uri: of the object; one with other content is replaced.

        Returns:
            Whether it had to be sent.

        Raises:
            MedmarkError: the file is unreadable or changes meanwhile, or the store fails.
        """
        path, place = Path(path), parse(uri)
        try:
            sha256 = file_sha256(path)
        except OSError as error:
            raise MedmarkError(f"cannot read: {path} ({error.strerror}); check the file and its rights") from error
        if self.sha256(place) == sha256:
            return False

        def attempt() -> None:
            with open(path, "rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                self._client.put_object(
                    place.bucket,
                    place.prefix,
                    _Checked(stream, size, sha256, path),
                    size,
                    metadata={"sha256": sha256},
                    part_size=PART_BYTES if size > PART_BYTES else 0,
                    num_parallel_uploads=1,
                )

        self._retried(place, attempt)
        return True

    def get(
        self, uri: str | Place, path: str | Path, *, sha256: str | None = None, limit: int = MAX_OBJECT_BYTES
    ) -> bool:
        """Writes an object to a file, unless it is there already.

        What was read stays in a hidden ``.partial`` file until it is complete and its digest right; a later call goes on
        from there.

        Args:
            uri: of the object.
            path: of the file; its folder is made. One with other content is replaced.
            sha256: that the content must have; None: what the object's metadata states.
            limit: bytes.

        Returns:
            Whether it had to be fetched. The file's time is then the object's.

        Raises:
            MedmarkError: no such object, it states no digest or is too large, its content has another digest, the disk is full,
                or the store fails.
        """
        path, place = Path(path), parse(uri)
        found = self._found(place, limit)
        sha256 = sha256 or _stated(found)
        if not sha256:
            raise MedmarkError(f"object without a stated SHA-256: {place}; upload it with medmark")
        partial = path.with_name(f".{path.name}.{sha256[:16]}.partial")
        try:
            if path.is_file() and path.stat().st_size == found.size and file_sha256(path) == sha256:
                return False
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _local(error, path) from error
        self._retried(place, lambda: self._fetch(place, found, sha256, partial))
        try:
            os.replace(partial, path)
        except OSError as error:
            raise _local(error, path) from error
        return True

    def take(self, uri: str | Place, folder: str | Path, *, limit: int = MAX_OBJECT_BYTES) -> Path:
        """Fetches an object that any tool may have put: it need not state its digest.

        What is read is all of one object, because its ETag is demanded. The digest is computed on arrival and becomes the
        name of the file, so that a later call can tell whether the file is whole, and does not fetch it again. If a digest
        is stated it must be that.

        Args:
            uri: of the object.
            folder: made if missing; the file lies in a folder of its own there.
            limit: bytes.

        Returns:
            The file, with the object's time.

        Raises:
            MedmarkError: as :meth:`get`.
        """
        place = parse(uri)
        found = self._found(place, limit)
        if not found.etag:
            raise MedmarkError(f"object without ETag: {place}; use an object store that gives one")
        identity = hashlib.sha256(f"{place}\n{found.etag}\n{found.size}".encode()).hexdigest()[:32]
        folder = Path(folder) / identity
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.iterdir():
                if HEX.fullmatch(path.name) and file_sha256(path) == path.name:
                    return path
        except OSError as error:
            raise _local(error, folder) from error
        partial = folder / "partial"
        sha256 = self._retried(place, lambda: self._fetch(place, found, _stated(found), partial))
        try:
            os.replace(partial, folder / sha256)
        except OSError as error:
            raise _local(error, folder) from error
        return folder / sha256

    def read(self, uri: str | Place, limit: int) -> bytes | None:
        """Content of a small object; None if there is none.

        Raises:
            MedmarkError: it has more than ``limit`` bytes, or the store fails.
        """
        place = parse(uri)

        def attempt() -> bytes | None:
            try:
                response = self._client.get_object(place.bucket, place.prefix)
            except S3Error as error:
                if error.code == "NoSuchKey":
                    return None
                raise
            with response:
                return response.read(limit + 1)

        content = self._retried(place, attempt)
        if content is not None and len(content) > limit:
            raise MedmarkError(f"refused object: {place} has more than {limit} bytes; check what lies there")
        return content

    def upload(self, folder: str | Path, uri: str | Place) -> int:
        """Stores every file of a folder; returns how many had to be sent.

        Raises:
            MedmarkError: no folder, a link or something else that is no file in it, or what :meth:`put` raises.
        """
        folder, place = Path(folder), parse(uri)
        if not folder.is_dir():
            raise MedmarkError(f"no folder: {folder}; give the folder to upload")
        files = {}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise MedmarkError(f"neither file nor folder: {path}; remove it or put the file itself there")
            if path.is_file():
                check_name(name, folder)
                files[name] = path
        self.list(place)  # says what is wrong with bucket, credentials or clock; answers about an object cannot
        return sum(parallel([lambda n=n, p=p: self.put(p, place / n) for n, p in files.items()], "uploading"))

    def download(self, uri: str | Place, folder: str | Path) -> int:
        """Fetches every object under a place; returns how many had to be fetched. Other files of the folder stay.

        Raises:
            MedmarkError: nothing is there, or what :meth:`list` and :meth:`get` raise.
        """
        place, folder = parse(uri), Path(folder)
        names = self.list(place)
        if not names:
            raise MedmarkError(f"nothing there: {place}; check the address")
        return sum(parallel([lambda n=n: self.get(place / n, folder / n) for n in names], "downloading"))

    def _found(self, place: Place, limit: int) -> Object:
        """What the store says of an object that is to be read."""
        found = self._stat(place)
        if found is None:
            raise MedmarkError(f"no such object: {place}; check the address, or publish it again")
        if found.size is None or not 0 <= found.size <= limit:
            raise MedmarkError(f"refused object: {place} has {found.size} bytes; at most {limit} are read")
        return found

    def _stat(self, place: Place) -> Object | None:
        def attempt() -> Object | None:
            try:
                return self._client.stat_object(place.bucket, place.prefix)
            except S3Error as error:
                if error.code == "NoSuchKey":
                    return None
                raise

        return self._retried(place, attempt)

    def _fetch(self, place: Place, found: Object, sha256: str, partial: Path) -> str:
        """Reads an object into its partial file, from where that ends; its digest, which must be ``sha256`` if that is not empty."""
        digest, etag, size = hashlib.sha256(), found.etag, found.size
        with open(partial, "ab+", opener=_no_link) as out:
            out.seek(0)
            while chunk := out.read(CHUNK_BYTES):
                digest.update(chunk)
            have = continued = out.tell()
            if have > size:
                have = continued = 0
            if have < size:
                response = self._client.get_object(
                    place.bucket, place.prefix, offset=have, request_headers={"If-Match": f'"{etag}"'} if etag else None
                )
                with response:
                    if have and response.status != 206:
                        have = continued = 0
                    if not have:
                        out.truncate(0)
                        digest = hashlib.sha256()
                    for chunk in response.stream(CHUNK_BYTES):
                        have += len(chunk)
                        if have > size:
                            break
                        digest.update(chunk)
                        out.write(chunk)
            elif not size:
                out.truncate(0)
            out.flush()
            os.fsync(out.fileno())
        if have < size:
            raise _Again("the answer ended early")
        if have > size or (sha256 and digest.hexdigest() != sha256):
            partial.unlink()
            if continued:
                raise _Again("the partial file was damaged")
            raise MedmarkError(f"content does not match its SHA-256: {place}; do not use it, publish it again")
        os.utime(partial, (_time(found.last_modified),) * 2)
        return digest.hexdigest()

    def _retried(self, where: Place, attempt: Callable[[], T]) -> T:
        """What an attempt returns, after as many as are allowed."""
        wait = BACKOFF
        for left in range(TRIES - 1, -1, -1):
            try:
                return attempt()
            except (S3Error, ServerError, InvalidResponseError, HTTPError, _Again) as error:
                if not left or not _may_pass(error):
                    raise self._explained(
                        error, where
                    ) from None  # the cause may quote a server that echoes credentials
                time.sleep(wait)
                wait *= 2
            except (ParseError, ValueError, TypeError, AttributeError) as error:  # what the client makes of nonsense
                text = self._hide(str(error))
                raise MedmarkError(
                    f"no object store's answer from {self.endpoint} ({text}); check the address"
                ) from None
            except OSError as error:
                raise _local(error, error.filename or where) from error
        raise AssertionError("unreachable")

    def _explained(self, error: Exception, where: Place) -> MedmarkError:
        """What the server says, in one line with a remedy."""
        code = error.code if isinstance(error, S3Error) else ""
        if code in KEY_REFUSED:
            return MedmarkError(f"credentials refused by {self.endpoint} ({code}); check access key and secret key")
        if code == "RequestTimeTooSkewed":
            return MedmarkError(f"this machine's clock differs too much from that of {self.endpoint}; set the clock")
        if code == "NoSuchBucket":
            return MedmarkError(f"no bucket {where.bucket} at {self.endpoint}; make it or correct the address")
        if code in ("AccessDenied", "AllAccessDisabled"):
            return Denied(
                f"access denied: {where} at {self.endpoint}; check that the bucket exists and that these credentials may use it"
            )
        if code == "PreconditionFailed":
            return Interrupted(f"object changed while it was read: {where}; run the same command again")
        if code in STORE_FULL or _status(error) == 507:
            return Interrupted(f"object store is full: {self.endpoint} ({code}); free space there, then run again")
        if isinstance(error, SSLError) or "certificate verify failed" in str(error):
            return MedmarkError(
                f"not trusted: {self.endpoint} ({self._hide(str(error))}); set MEDMARK_S3_CA to its authority's PEM file"
            )
        text = self._hide(f"{code} {error.message}" if isinstance(error, S3Error) else str(error))
        if _may_pass(error):
            return Interrupted(
                f"no answer from {self.endpoint} after {TRIES} tries ({text}); is it up? run again to go on"
            )
        return MedmarkError(f"refused by {self.endpoint}: {where} ({text}); check address and rights")

    def _hide(self, text: str) -> str:
        """A server's words in a short line without credentials."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]


def parallel(tasks: list[Callable[[], T]], description: str) -> list[T]:
    """Results of tasks that run side by side, in the order in which they end; the first error cancels what has not begun."""
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            return [future.result() for future in track(as_completed(futures), description, len(futures))]
        finally:
            for future in futures:
                future.cancel()


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


class _Again(Exception):
    """A try failed in a way that may pass."""


class _Checked:
    """A file that must have one digest. The last read fails otherwise, before the store makes an object of it."""

    def __init__(self, stream: BinaryIO, size: int, sha256: str, path: Path):
        self._stream, self._left, self._sha256, self._path = stream, size, sha256, path
        self._digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._stream.read(min(size, self._left))
        self._digest.update(data)
        self._left -= len(data)
        if (not data and self._left) or (not self._left and self._digest.hexdigest() != self._sha256):
            raise MedmarkError(f"file changed while it was read: {self._path}; run again when nothing writes it")
        return data


def _checked_endpoint(endpoint: str, insecure: bool) -> tuple[str, bool]:
    """Host with port, and whether to use TLS."""
    try:
        parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.username or parts.password:
        raise MedmarkError("not an endpoint of an object store; set MEDMARK_S3_ENDPOINT to https://host[:port]")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise MedmarkError(f"endpoint with a path: {parts.netloc}; give only https://host[:port]")
    if parts.scheme == "http" and not insecure and not is_local(host):
        raise MedmarkError(
            f"http to another machine: {host}; use https, or set MEDMARK_S3_INSECURE=1 if the net is trusted"
        )
    return parts.netloc, parts.scheme == "https"


def is_local(host: str) -> bool:
    """Whether a host is this machine, by its name or address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def _read_credentials(path: Path, variable: str) -> dict:
    try:
        if path.stat().st_mode & 0o077:
            raise MedmarkError(
                f"others may read the credentials: {path}; run chmod 600 {path} and change the secret key"
            )
        given = json.loads(path.read_bytes())
        if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
            raise ValueError("no object of texts")
        return given
    except OSError as error:
        raise MedmarkError(f"cannot read: {path} ({error.strerror}); correct {variable}") from error
    except (ValueError, RecursionError):  # the reason may quote the file
        raise MedmarkError(
            f"no credentials file: {path}; give JSON with endpoint, access_key, secret_key and region"
        ) from None


def _stated(found: Object) -> str:
    stated = str((found.metadata or {}).get("x-amz-meta-sha256", ""))
    return stated if HEX.fullmatch(stated) else ""


def _time(stated: datetime | None) -> float:
    """Seconds since 1970 of a time that a server states; 0 for one that no file can have."""
    seconds = stated.timestamp() if stated else 0.0
    return seconds if 0 <= seconds < 2**33 else 0.0


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
    if isinstance(error, SSLError) or "certificate verify failed" in str(error):
        return False
    if isinstance(error, (HTTPError, _Again)):
        return True
    status = _status(error)
    return status == 429 or (500 <= status and status not in (501, 507)) or getattr(error, "code", "") in PASSES


def _local(error: OSError, where: object) -> MedmarkError:
    """What the local disk says."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Interrupted(f"disk full: {where} ({error.strerror}); free space, then run again to go on")
    return MedmarkError(f"cannot use: {where} ({error.strerror or error}); check the path and its rights")
