"""Submitting to a KFP API server.

The server decides what runs and where it publishes, so it must be reached by https or be on this machine. The token comes from the
environment and appears in no message.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

from medmark.components.base.addresses import is_local
from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import one_line, reason_of
from medmark.pipelines.compile import compile_pipeline
from medmark.pipelines.pods import Pods

if TYPE_CHECKING:
    from kfp.dsl.graph_component import GraphComponent

T = TypeVar("T")
EXPERIMENT = "medmark"
TIMEOUT = (10, 60)  # seconds, for a connection and between two bytes; arbitrary
POLL = 5.0  # seconds between two looks at a run; as kfp's own
PATIENCE = 12  # looks without an answer before waiting ends: a minute; arbitrary
PAGE = 100  # runs listed at once; arbitrary
MAX_PAGES = 1000  # of runs; arbitrary
CRON_FIELDS = 5  # minute, hour, day of the month, month, day of the week
CRON_FIELD = re.compile(r"[0-9A-Za-z*?/,-]+")
LARGEST_TOKEN = 1 << 16  # bytes
ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
UNDONE = ("FAILED", "CANCELING", "CANCELED")  # such a run is submitted again


class Run(Protocol):
    """What a server says about a run; a ``V2beta1Run`` of kfp_server_api.

    Attributes:
        run_id: its id.
        display_name: its name.
        state: for example ``RUNNING``; None before the server knows.
        created_at: when it was started.
        error: why it failed, if the server says so.
    """

    run_id: str
    display_name: str
    state: str | None
    created_at: datetime
    error: Any


class Started(NamedTuple):
    """A run on a server, and whether it was started now, and not before."""

    run: Run
    new: bool


class RecurringRun(Protocol):
    """What a server says about a recurring run; a ``V2beta1RecurringRun`` of kfp_server_api.

    Attributes:
        recurring_run_id: its id.
        display_name: its name.
        description: what it does.
        status: ``ENABLED`` or ``DISABLED``.
    """

    recurring_run_id: str
    display_name: str
    description: str
    status: str


class Scheduled(NamedTuple):
    """A recurring run on a server, whether it was made now, and how many of its name it replaced."""

    run: RecurringRun
    new: bool
    replaced: int


class KfpServer:
    """A KFP API server.

    Environment variables: ``KFP_TOKEN`` is the bearer token, or ``KF_PIPELINES_SA_TOKEN_PATH`` the file that holds it, as Kubeflow sets it
    in a pod that may reach the server; ``KFP_CA`` is the PEM file of the authorities to trust, and ``KFP_INSECURE=1`` allows http to
    other machines.

    Args:
        endpoint: ``https://host[:port][/path]``; ``http://`` only for this machine.
        namespace: namespace on a server with several users; None for any other server.
        images, pods: see :func:`medmark.pipelines.compile.compile_pipeline`.
        pipeline_root: where the server keeps what the steps of a run pass on; None: where it does by default.
        service_account: of the pods of a run, likewise.

    Raises:
        MedmarkError: the endpoint is malformed, does not answer, refuses or is no KFP API server, or needs a namespace.
    """

    def __init__(
        self,
        endpoint: str,
        namespace: str | None = None,
        *,
        images: Mapping[str, str],
        pods: Pods | None = None,
        pipeline_root: str | None = None,
        service_account: str | None = None,
    ):
        import kfp_server_api
        from kfp import Client

        self.endpoint, self._namespace, self._compiled_with = _checked(endpoint), namespace, (images, pods)
        self._of_run = {"pipeline_root": pipeline_root, "service_account": service_account}
        self._token, ca = _token_from_environment(), os.environ.get("KFP_CA") or None
        if ca is not None and not Path(ca).is_file():
            raise MedmarkError(f"no file of certificate authorities: {ca}; give a PEM file in KFP_CA")
        configuration = kfp_server_api.Configuration(host=self.endpoint)
        configuration.ssl_ca_cert = ca
        if self._token:
            configuration.api_key = {"authorization": self._token}
            configuration.api_key_prefix = {"authorization": "Bearer"}
        health = _bounded(kfp_server_api.ApiClient(configuration))
        # kfp's own first look tries five times, and prints a traceback each time
        state = self._ask(kfp_server_api.HealthzServiceApi(health).healthz_service_get_healthz)
        if state.multi_user and not namespace:
            raise MedmarkError(f"{self.endpoint} serves several users; name yours with --namespace")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            own = {"namespace": namespace} if namespace else {}
            self._client = self._ask(lambda: Client(self.endpoint, existing_token=self._token, ssl_ca_cert=ca, **own))
        _bounded(self._client._run_api.api_client)  # all its APIs share it

    @functools.cached_property
    def _experiment(self) -> str:
        """Id of the experiment, which is made if missing."""
        import kfp_server_api

        def make() -> Any:
            try:
                return self._client.create_experiment(EXPERIMENT, namespace=self._namespace)
            except kfp_server_api.ApiException as error:
                if error.status != 409:  # made meanwhile by another
                    raise
                return self._client.get_experiment(experiment_name=EXPERIMENT, namespace=self._namespace)

        return _text(self._ask(make).experiment_id, self.endpoint)

    def url(self, run: Run) -> str:
        """Returns the address of the page that shows a run."""
        return f"{self.endpoint}/#/runs/details/{one_line(run.run_id)}"

    def find(self, name: str) -> list[Run]:
        """Returns the runs of a name that did not fail, the earliest first."""
        runs = [run for run in self._list(name, self._client.list_runs, "runs") if run.state not in UNDONE]
        return sorted(runs, key=lambda run: (str(run.created_at), str(run.run_id)))

    def _list(self, name: str, ask: Callable[..., Any], kind: str) -> list[Any]:
        """Returns all runs, or recurring runs, of a name."""
        predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
        asked = {"page_size": PAGE, "filter": json.dumps({"predicates": [predicate]})}
        found: list[Any] = []
        token = ""
        for _ in range(MAX_PAGES):
            page = {"experiment_id": self._experiment, "page_token": token}
            answer = self._ask(functools.partial(ask, **asked, **page))
            found += [one for one in getattr(answer, kind) or [] if one.display_name == name]
            if not answer.next_page_token:
                return found
            token = answer.next_page_token
        raise MedmarkError(f"more than {MAX_PAGES} pages of runs at {self.endpoint}; archive and delete old ones")

    def submit(
        self, name: str, pipeline: GraphComponent, arguments: Callable[[], dict], *, anew: bool = False
    ) -> Started:
        """Starts a run unless one of that name was started and did not fail.

        Two commands that submit at once may both start one; the later one then ends its own.

        Args:
            name: name of the run.
            pipeline: a function decorated with ``dsl.pipeline``.
            arguments: makes the arguments of the pipeline; called only if a run is started.
            anew: start with the first step, whatever the cache has of an earlier run.

        Returns:
            The run, and whether it is new.
        """
        known = self.find(name)
        if known:
            return Started(known[0], False)
        with tempfile.TemporaryDirectory() as folder:
            package = str(Path(folder) / "pipeline.yaml")
            compile_pipeline(pipeline, package, *self._compiled_with, anew=anew)
            given = arguments()
            run: Run = self._ask(
                lambda: self._client.run_pipeline(self._experiment, name, package, given, **self._of_run)
            )
        mine = _text(run.run_id, self.endpoint)
        first = (self.find(name) or [run])[0]
        if first.run_id == mine:
            return Started(run, True)
        self._ask(lambda: self._client.terminate_run(mine))
        return Started(first, False)

    def schedule(
        self,
        name: str,
        about: str,
        pipeline: GraphComponent,
        arguments: dict,
        *,
        cron: str,
        service_account: str | None,
    ) -> Scheduled:
        """Lets the server start a pipeline at set times, one run at a time, in place of earlier recurring runs of that name.

        Times that pass while a run is on its way, or while the server is away, count once and not each. What is replaced starts nothing
        more; a run of it that is on its way goes on. Two commands that schedule at once may leave two; the next one leaves one.

        Args:
            name: name of the recurring run.
            about: what it does, for people.
            pipeline: a function decorated with ``dsl.pipeline``.
            arguments: of the pipeline.
            cron: five fields as in a crontab, in the server's time zone, which is UTC unless its installation says otherwise.
            service_account: of the pods; the server's default when None.

        Returns:
            The recurring run, whether it is new (not if the same is there already), and how many it replaced.

        Raises:
            MedmarkError: the cron expression has other fields, or the server refuses.
        """
        fields = cron.split()
        if len(fields) != CRON_FIELDS or not all(CRON_FIELD.fullmatch(field) for field in fields):
            raise MedmarkError(
                f"no cron expression: {cron!r}; give five fields, such as '17 2 * * *' for 02:17 every day"
            )
        timed = " ".join(("0", *fields))  # the server's first field is seconds, and it would take the minute for them
        with tempfile.TemporaryDirectory() as folder:
            package = Path(folder) / "pipeline.yaml"
            compile_pipeline(pipeline, package, *self._compiled_with)
            root = self._of_run["pipeline_root"]
            settings = [timed, arguments, root, service_account, package.read_text()]
            stated = f"{about}; settings {hashlib.sha256(canonical_json(settings)).hexdigest()[:16]}"
            earlier: list[RecurringRun] = self._list(name, self._client.list_recurring_runs, "recurring_runs")
            same = [run for run in earlier if run.description == stated and run.status == "ENABLED"]
            kept: RecurringRun = (
                same[0]
                if same
                else self._ask(
                    lambda: self._client.create_recurring_run(
                        self._experiment,
                        name,
                        description=stated,
                        cron_expression=timed,
                        max_concurrency=1,
                        no_catchup=True,
                        params=arguments,
                        pipeline_package_path=str(package),
                        pipeline_root=root,
                        service_account=service_account,
                    )
                )
            )
        replaced = [run for run in earlier if run.recurring_run_id != kept.recurring_run_id]
        for run in replaced:
            # Kubernetes would end the runs of what is deleted
            delete = self._client._recurring_run_api.recurring_run_service_delete_recurring_run
            self._ask(functools.partial(delete, run.recurring_run_id, propagation_policy="ORPHAN"))
        return Scheduled(kept, not same, len(replaced))

    def schedule_url(self, run: RecurringRun) -> str:
        """Returns the address of the page that shows a recurring run."""
        return f"{self.endpoint}/#/recurringrun/details/{one_line(run.recurring_run_id)}"

    def wait(self, run: Run, timeout: float) -> None:
        """Waits until a run has succeeded, and prints every new state on standard error.

        Args:
            run: as :meth:`submit` returns it.
            timeout: seconds to wait at most.

        Raises:
            MedmarkError: it did not succeed, or not in time, or the server does not answer for a minute.
        """
        run_id, shown, silent, started = run.run_id, None, 0, time.monotonic()
        deadline = started + timeout
        while True:
            try:
                run, silent = self._ask(lambda: self._client.get_run(run_id)), 0
            except MedmarkError:
                silent += 1
                if silent >= PATIENCE:
                    raise
            if run.state != shown and not silent:
                shown = run.state
                print(
                    f"{run.display_name}: {shown} after {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True
                )
            if run.state == "SUCCEEDED":
                return
            if run.state in ENDED:
                reason = one_line(
                    run.error.message if run.error and run.error.message else "no reason given", hidden=[self._token]
                )
                raise MedmarkError(
                    f"run {run.state}: {reason}; see {self.url(run)}, correct the cause and retry it there, or submit again, which goes on with what succeeded"
                )
            if time.monotonic() > deadline:
                raise MedmarkError(
                    f"run still {run.state} after {timeout:g} s: {self.url(run)}; it goes on, the same command waits again"
                )
            time.sleep(min(POLL, max(0.0, deadline - time.monotonic()) + 0.01))

    def _ask(self, question: Callable[[], T]) -> T:
        """An answer of the server; what the client prints is left out."""
        import kfp_server_api
        import urllib3

        try:
            with contextlib.redirect_stdout(io.StringIO()):
                answer = question()
        except kfp_server_api.ApiException as error:
            raise self._explained(error) from None  # the cause may quote a server that echoes the token
        except urllib3.exceptions.HTTPError as error:
            raise self._silent(str(error)) from None
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            if isinstance(error.__context__, kfp_server_api.ApiException):  # it fails to handle one without a body
                raise self._explained(error.__context__) from None
            text = one_line(error, hidden=[self._token])
            raise MedmarkError(f"no KFP API server's answer from {self.endpoint} ({text}); check the address") from None
        return answer

    def _explained(self, error: Any) -> MedmarkError:
        """Makes one line with a remedy from an exception of kfp_server_api."""
        if not error.status:  # TLS
            return self._silent(str(error.reason))
        try:
            said = json.loads(error.body)["message"]
        except (ValueError, KeyError, TypeError, RecursionError):
            said = error.reason
        text = f"{error.status} {one_line(said, hidden=[self._token])}"
        if error.status in (401, 403):
            return MedmarkError(f"refused by {self.endpoint} ({text}); set KFP_TOKEN to a token that may do this")
        if error.status >= 500:
            return MedmarkError(f"{self.endpoint} fails ({text}); see its log, then run again")
        return MedmarkError(f"refused by {self.endpoint} ({text}); check the address and the server's version")

    def _silent(self, reason: str) -> MedmarkError:
        text = one_line(reason, hidden=[self._token])
        if "certificate" in reason or "SSLError" in reason:
            return MedmarkError(f"not trusted: {self.endpoint} ({text}); set KFP_CA to its authority's PEM file")
        return MedmarkError(f"no answer from {self.endpoint} ({text}); is it up? check the address")


def _bounded(client: Any) -> Any:
    """Gives kfp_server_api's client time limits, which it has none of, and keeps it from trying again or elsewhere."""
    rest = client.rest_client
    send = rest.request
    rest.request = lambda *arguments, **named: send(*arguments, **{**named, "_request_timeout": TIMEOUT})
    rest.pool_manager.connection_pool_kw["retries"] = False
    return client


def _token_from_environment() -> str | None:
    file = os.environ.get("KF_PIPELINES_SA_TOKEN_PATH")
    if os.environ.get("KFP_TOKEN") or not file:
        return os.environ.get("KFP_TOKEN") or None
    try:
        with open(file, encoding="ascii") as stream:
            return stream.read(LARGEST_TOKEN).strip()
    except (OSError, ValueError) as error:
        raise MedmarkError(
            f"unreadable token: {file} ({reason_of(error)}); correct KF_PIPELINES_SA_TOKEN_PATH, or set KFP_TOKEN"
        ) from None


def _checked(endpoint: str) -> str:
    try:
        parts = urlsplit(endpoint)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.username or parts.password or parts.query:
        raise MedmarkError("not an endpoint of a KFP API server; give --endpoint https://host[:port]")
    if parts.scheme == "http" and not is_local(host) and os.environ.get("KFP_INSECURE") != "1":
        raise MedmarkError(f"http to another machine: {host}; use https, or set KFP_INSECURE=1 if the net is trusted")
    return endpoint.rstrip("/")


def _text(value: Any, endpoint: str) -> str:
    if not isinstance(value, str) or not value:
        raise MedmarkError(f"no KFP API server's answer from {endpoint}; check the address")
    return value
