"""Folders in an S3 object store, through the MinIO client, so with any server that speaks S3.

Every object that medmark writes carries the SHA-256 of its content as user metadata. An upload or download that was
interrupted goes on when it is started again: what is there with the right digest is not sent twice (what is tried again by
itself: retry.py). The store is hostile: names that leave the folder are refused, sizes are bounded, and what is read counts
only if its digest is right. Objects of other tools, which state no digest, are read by :meth:`Store.take` alone.

Credentials appear in no message and no ``repr``.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar, cast

import urllib3
from medmark.components.base.digests import HEX, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.storage.credentials import checked_endpoint, given_credentials
from medmark.components.storage.place import Place, check_name, parse
from medmark.components.storage.retry import Again, Retries, local_error
from minio import Minio
from minio.datatypes import Object
from minio.error import S3Error

T = TypeVar("T")
REGION = "us-east-1"  # what servers of one's own answer to
PART_BYTES = 16 << 20  # of a multipart upload; each thread holds one in memory; arbitrary
CHUNK_BYTES = 1 << 20  # arbitrary
THREADS = 4  # transfers side by side; arbitrary
TIMEOUT = urllib3.Timeout(connect=10, read=60)  # seconds, for a connection and between two bytes; arbitrary
MAX_OBJECTS = 100_000  # under one prefix; arbitrary
MAX_OBJECT_BYTES = 64 << 30  # arbitrary


class StoredObject(NamedTuple):
    """What a store says of an object.

    Attributes:
        size: bytes.
        etag: another for other content, as far as the store tells.
    """

    size: int
    etag: str


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
        host, secure = checked_endpoint(endpoint, insecure)
        if not access_key or not secret_key:
            raise MedmarkError(
                f"no credentials for {host}; set MEDMARK_S3_ACCESS_KEY and MEDMARK_S3_SECRET_KEY or MEDMARK_S3_CREDENTIALS"
            )
        if ca is not None and not Path(ca).is_file():
            raise MedmarkError(f"no file of certificate authorities: {ca}; give a PEM file in MEDMARK_S3_CA")
        self.endpoint = f"{'https' if secure else 'http'}://{host}"
        self._secrets = [secret_key, access_key]
        self._retries = Retries(self.endpoint, self._secrets)
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
        given = given_credentials(identity)
        return cls(
            given["endpoint"],
            given["access_key"],
            given["secret_key"],
            region=given["region"] or REGION,
            ca=os.environ.get("MEDMARK_S3_CA") or None,
            insecure=os.environ.get("MEDMARK_S3_INSECURE") == "1",
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

    def listing(self, uri: str | Place) -> dict[str, StoredObject]:
        """Objects under a place, by their name relative to it.

        Empty objects that stand for folders, as browsers of buckets make them, are left out.

        Raises:
            MedmarkError: as :meth:`list`.
        """
        place = parse(uri)
        start = f"{place.prefix}/" if place.prefix else ""

        def attempt() -> dict[str, StoredObject]:
            found: dict[str, StoredObject] = {}
            for item in self._client.list_objects(place.bucket, prefix=start, recursive=True):
                name = item.object_name or ""
                if name == start and item.size == 0:
                    continue
                is_folder = name.endswith("/") and item.size == 0
                check_name(name.removeprefix(start).removesuffix("/" if is_folder else ""), place)
                if not name.startswith(start) or item.size is None or not 0 <= item.size <= MAX_OBJECT_BYTES:
                    raise MedmarkError(f"refused object: {name[:80]!r} in {place}; it has no size, or one too large")
                if not is_folder:
                    found[name.removeprefix(start)] = StoredObject(item.size, item.etag or "")
                if len(found) > MAX_OBJECTS:
                    raise MedmarkError(f"more than {MAX_OBJECTS} objects in {place}; give a longer prefix")
            return found

        return self._retries.run(place, attempt)

    def folders(self, uri: str | Place) -> Sequence[str]:
        """Names of the prefixes one level below a place, sorted; objects are left out.

        Raises:
            MedmarkError: as :meth:`list`.
        """
        place = parse(uri)
        start = f"{place.prefix}/" if place.prefix else ""

        def attempt() -> Sequence[str]:
            found = set()
            for item in self._client.list_objects(place.bucket, prefix=start):
                name = (item.object_name or "").removeprefix(start)
                if name.endswith("/"):
                    check_name(name[:-1], place)
                    found.add(name[:-1])
                if len(found) > MAX_OBJECTS:
                    raise MedmarkError(f"more than {MAX_OBJECTS} folders in {place}; give a longer prefix")
            return sorted(found)

        return self._retries.run(place, attempt)

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
                    cast(BinaryIO, _Checked(stream, size, sha256, path)),  # the client calls read alone
                    size,
                    metadata={"sha256": sha256},
                    part_size=PART_BYTES if size > PART_BYTES else 0,
                    num_parallel_uploads=1,
                )

        self._retries.run(place, attempt)
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
        found, size = self._found(place, limit)
        sha256 = sha256 or _stated(found)
        if not sha256:
            raise MedmarkError(f"object without a stated SHA-256: {place}; upload it with medmark")
        partial = path.with_name(f".{path.name}.{sha256[:16]}.partial")
        try:
            if path.is_file() and path.stat().st_size == size and file_sha256(path) == sha256:
                return False
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise local_error(error, path) from error
        self._retries.run(place, lambda: self._fetch(place, found, size, sha256, partial))
        try:
            os.replace(partial, path)
        except OSError as error:
            raise local_error(error, path) from error
        return True

    def take(self, uri: str | Place, folder: str | Path, *, limit: int = MAX_OBJECT_BYTES) -> Path:
        """Fetches an object that any tool may have put: it need not state its digest.

        What is read is all of one object, because its ETag is demanded. The digest is computed on arrival and becomes the
        name of the file, so that a later call can tell whether the file is whole, and does not fetch it again. If a digest
        is stated it must be that.

        Args:
            uri: of the object.
            folder: made if missing; the file gets a folder of its own there.
            limit: bytes.

        Returns:
            The file, with the object's time.

        Raises:
            MedmarkError: as :meth:`get`.
        """
        place = parse(uri)
        found, size = self._found(place, limit)
        if not found.etag:
            raise MedmarkError(f"object without ETag: {place}; use an object store that gives one")
        identity = hashlib.sha256(f"{place}\n{found.etag}\n{size}".encode()).hexdigest()[:32]
        folder = Path(folder) / identity
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.iterdir():
                if HEX.fullmatch(path.name) and file_sha256(path) == path.name:
                    return path
        except OSError as error:
            raise local_error(error, folder) from error
        partial = folder / "partial"
        sha256 = self._retries.run(place, lambda: self._fetch(place, found, size, _stated(found), partial))
        try:
            os.replace(partial, folder / sha256)
        except OSError as error:
            raise local_error(error, folder) from error
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

        content = self._retries.run(place, attempt)
        if content is not None and len(content) > limit:
            raise MedmarkError(f"refused object: {place} has more than {limit} bytes; check what it is")
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
        return sum(
            parallel([functools.partial(self.put, path, place / name) for name, path in files.items()], "uploading")
        )

    def download(self, uri: str | Place, folder: str | Path) -> int:
        """Fetches every object under a place; returns how many had to be fetched. Other files of the folder stay.

        Raises:
            MedmarkError: nothing is there, or what :meth:`list` and :meth:`get` raise.
        """
        place, folder = parse(uri), Path(folder)
        names = self.list(place)
        if not names:
            raise MedmarkError(f"nothing there: {place}; check the address")
        return sum(
            parallel([functools.partial(self.get, place / name, folder / name) for name in names], "downloading")
        )

    def _found(self, place: Place, limit: int) -> tuple[Object, int]:
        """What the store says of an object that is to be read, and its size in bytes."""
        found = self._stat(place)
        if found is None:
            raise MedmarkError(f"no such object: {place}; check the address, or publish it again")
        if found.size is None or not 0 <= found.size <= limit:
            raise MedmarkError(f"refused object: {place} has {found.size} bytes; at most {limit} are read")
        return found, found.size

    def _stat(self, place: Place) -> Object | None:
        def attempt() -> Object | None:
            try:
                return self._client.stat_object(place.bucket, place.prefix)
            except S3Error as error:
                if error.code == "NoSuchKey":
                    return None
                raise

        return self._retries.run(place, attempt)

    def _fetch(self, place: Place, found: Object, size: int, sha256: str, partial: Path) -> str:
        """Reads an object into its partial file, from where that ends; its digest, which must be ``sha256`` if that is not empty."""
        digest, etag = hashlib.sha256(), found.etag
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
            raise Again("the answer ended early")
        if have > size or (sha256 and digest.hexdigest() != sha256):
            partial.unlink()
            if continued:
                raise Again("the partial file was damaged")
            raise MedmarkError(f"content does not match its SHA-256: {place}; do not use it, publish it again")
        os.utime(partial, (_time(found.last_modified),) * 2)
        return digest.hexdigest()


def parallel(tasks: Sequence[Callable[[], T]], description: str) -> list[T]:
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


def _stated(found: Object) -> str:
    stated = str((found.metadata or {}).get("x-amz-meta-sha256", ""))
    return stated if HEX.fullmatch(stated) else ""


def _time(stated: datetime | None) -> float:
    """Seconds since 1970 of a time that a server states; 0 for one that no file can have."""
    seconds = stated.timestamp() if stated else 0.0
    return seconds if 0 <= seconds < 2**33 else 0.0
