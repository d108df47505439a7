"""A loopback stand-in for the KFP API server: the v2beta1 calls that submitting makes, in the server's words.

It is no KFP: it stores runs and lets them go through states that a test names, or has them run by what a test gives. Requests are held against the models of
``kfp_server_api``, the pipeline against the schema of the IR, and the parameters against the pipeline, as the server does. A recurring run
starts when a test says that its time has come.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import kfp_server_api as api
from google.protobuf.json_format import ParseDict, ParseError
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

ENDED = ("SUCCEEDED", "FAILED", "CANCELED")
EQUALS = 1  # kfp sends this number; the server takes both
CRON = re.compile(
    r"[0-9*?/,-]+( [0-9A-Za-z*?/,-]+){4,5}"
)  # the server takes five fields or six, the first always for seconds
CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 500: 13}  # HTTP status to gRPC's


class Refused(Exception):
    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class KfpApi:
    """The server; use it as a context manager.

    Attributes:
        url: ``http://127.0.0.1:port``, or https with a TLS context.
        states: that every new run goes through, one each time it is looked at; it stays in the last.
        error: message of a run that fails.
        token: that requests must bear, or None.
        multi_user: whether requests must name a namespace.
        answer: called with the path; None for the usual answer, else status, content type and body.
        runs, experiments, recurring: by id, in the order in which they were made.
        orphaned: ids of recurring runs that were deleted without their runs.
        created: called when a run was made, before the answer.
        run: does the work of a run, in a thread: called with the two documents of the compiled pipeline and the parameters.
            None: nothing is done.
        requests: method and path of each.
    """

    def __init__(self, *, token: str | None = None, multi_user: bool = False, tls=None):
        self.states, self.error = ["PENDING"], "a step failed"
        self.token, self.multi_user = token, multi_user
        self.answer: Callable[[str], tuple[int, str, bytes] | None] = lambda path: None
        self.created: Callable[[], None] = lambda: None
        self.run: Callable[[dict, dict, dict], None] | None = None
        self._workers: list[threading.Thread] = []
        self.runs: dict[str, api.V2beta1Run] = {}
        self.experiments: dict[str, api.V2beta1Experiment] = {}
        self.recurring: dict[str, api.V2beta1RecurringRun] = {}
        self.orphaned: list[str] = []
        self.requests: list[tuple[str, str]] = []
        self._left: dict[str, list[str]] = {}
        self._lock = threading.Lock()
        self._models = api.ApiClient()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> KfpApi:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        for worker in self._workers:
            worker.join()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def state(self, name: str) -> list[str]:
        """States of the runs of a name."""
        return [run.state for run in self.runs.values() if run.display_name == name]

    def fire(self, recurring_id: str):
        """Starts a recurring run as the server's controller does at its time.

        Returns:
            The run; None where it is disabled, or as many of its runs are on their way as it allows.
        """
        recurring = self.recurring[recurring_id]
        mine = [run for run in self.runs.values() if run.recurring_run_id == recurring_id]
        active = [run for run in mine if self._left[run.run_id][-1] not in ENDED]
        if recurring.status != "ENABLED" or len(active) >= int(recurring.max_concurrency):
            return None
        run = api.V2beta1Run(
            experiment_id=recurring.experiment_id,
            display_name=f"{recurring.display_name}-{len(mine) + 1}",
            recurring_run_id=recurring_id,
            pipeline_spec=recurring.pipeline_spec,
            runtime_config=recurring.runtime_config,
            service_account=recurring.service_account,
        )
        return self._new_run(run)

    def join(self) -> None:
        """Waits until the work of every run is done."""
        for worker in list(self._workers):
            worker.join()

    def _handler(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer._respond(self)

            do_POST = do_DELETE = do_GET

            def log_message(self, *arguments):
                pass

        return Handler

    def _respond(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.requests.append((request.command, parts.path))
        given = self.answer(parts.path)
        if given is None:
            try:
                if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
                    raise Refused(401, f"Unauthenticated: {request.headers.get('Authorization')}")
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                status, content = 200, self._call(request.command, parts.path, query, body)
            except Refused as error:
                status, message = error.status, str(error)
                content = {"error": message, "code": CODES[status], "message": message, "details": []}
            given = status, "application/json", json.dumps(self._models.sanitize_for_serialization(content)).encode()
        request.send_response(given[0])
        request.send_header("Content-Type", given[1])
        request.send_header("Content-Length", str(len(given[2])))
        request.end_headers()
        request.wfile.write(given[2])

    def _call(self, method: str, path: str, query: dict[str, str], body: bytes):
        call = re.fullmatch(
            r"/apis/v2beta1/(healthz|experiments|runs|recurringruns)(?:/([\w-]+))?(?::(terminate))?", path
        )
        match (method, *call.groups()) if call else ():
            case ("GET", "healthz", None, None):
                return {"multi_user": True} if self.multi_user else {}  # what is false is left out
            case ("GET", "experiments", None, None):
                return api.V2beta1ListExperimentsResponse(**self._page("experiments", self.experiments, query))
            case ("POST", "experiments", None, None):
                return self._new_experiment(self._parsed(body, "V2beta1Experiment"))
            case ("GET", "runs", None, None):
                return api.V2beta1ListRunsResponse(**self._page("runs", self.runs, query))
            case ("POST", "runs", None, None):
                return self._new_run(self._parsed(body, "V2beta1Run"))
            case ("GET", "runs", run_id, None) if run_id in self.runs:
                return self._advanced(run_id)
            case ("POST", "runs", run_id, "terminate") if run_id in self.runs:
                self._left[run_id] = ["CANCELED"]
                self.runs[run_id].state = "CANCELING"
                return {}
            case ("GET", "recurringruns", None, None):
                return api.V2beta1ListRecurringRunsResponse(**self._page("recurring_runs", self.recurring, query))
            case ("POST", "recurringruns", None, None):
                return self._new_recurring_run(self._parsed(body, "V2beta1RecurringRun"))
            case ("DELETE", "recurringruns", recurring_id, None) if recurring_id in self.recurring:
                return self._delete_recurring_run(recurring_id, query.get("propagation_policy"))
        raise Refused(404, f"Not Found: {method} {path}")

    def _parsed(self, body: bytes, model: str):
        try:
            content = json.loads(body)
            unknown = set(content) - set(getattr(api, model).attribute_map.values())
            if unknown:
                raise ValueError(f"unknown field {sorted(unknown)[0]!r}")
            return self._models._ApiClient__deserialize(content, model)  # checks types and enumerations
        except (ValueError, TypeError, AttributeError) as error:
            raise Refused(400, f"Invalid input error: {error}") from error

    def _page(self, kind: str, everything: dict, query: dict[str, str]) -> dict:
        items = list(everything.values())
        if self.multi_user and not (query.get("namespace") or query.get("experiment_id")):
            raise Refused(400, "Invalid input error: a namespace or an experiment is needed in multi-user mode")
        if "experiment_id" in query:
            items = [item for item in items if item.experiment_id == query["experiment_id"]]
        if query.get("filter"):
            for predicate in json.loads(query["filter"])["predicates"]:
                if set(predicate) != {"operation", "key", "stringValue"} or predicate["key"] != "display_name":
                    raise Refused(400, f"Invalid input error: filter {predicate}")
                text = predicate["stringValue"]
                if predicate["operation"] not in ("EQUALS", EQUALS):
                    raise Refused(400, f"Invalid input error: operation {predicate['operation']}")
                items = [item for item in items if item.display_name == text]
        start, size = int(query.get("page_token") or 0), int(query.get("page_size") or 10)
        more = str(start + size) if start + size < len(items) else None
        return {kind: items[start : start + size] or None, "next_page_token": more}

    def _new_experiment(self, experiment):
        with self._lock:
            if any(known.display_name == experiment.display_name for known in self.experiments.values()):
                raise Refused(409, f"Already exist error: {experiment.display_name}")
            experiment.experiment_id, experiment.created_at = str(uuid4()), datetime.now(UTC)
            self.experiments[experiment.experiment_id] = experiment
            return experiment

    def _new_run(self, run):
        if run.experiment_id not in self.experiments:
            raise Refused(404, f"ResourceNotFoundError: experiment {run.experiment_id}")
        if not run.display_name or len(run.display_name) > 128:
            raise Refused(400, "Invalid input error: the run's name is empty or too long")
        spec = self._checked_spec(run)
        with self._lock:
            run.run_id, run.created_at, run.state = (
                str(uuid4()),
                datetime.now(UTC).replace(microsecond=0),
                "PENDING",
            )  # whole seconds, as KFP
            self.runs[run.run_id], self._left[run.run_id] = run, list(self.states)
        self.created()
        if self.run:
            self._left[run.run_id] = ["RUNNING"]
            work = spec["pipeline_spec"], spec["platform_spec"], run.runtime_config.parameters
            self._workers.append(threading.Thread(target=self._work, args=(run.run_id, *work)))
            self._workers[-1].start()
        return run

    def _new_recurring_run(self, recurring):
        if recurring.experiment_id not in self.experiments:
            raise Refused(404, f"ResourceNotFoundError: experiment {recurring.experiment_id}")
        if not recurring.display_name:
            raise Refused(400, "Invalid input error: Recurring run's name cannot be empty")
        if not 1 <= int(recurring.max_concurrency or 0) <= 10:  # 64 bits travel as text
            raise Refused(
                400, "Invalid input error: Max concurrency of a recurring run must be at least 1 and at most 10"
            )
        trigger = recurring.trigger
        if not (trigger and trigger.cron_schedule and CRON.fullmatch(trigger.cron_schedule.cron)):
            raise Refused(400, "Invalid input error: Schedule cron is not a supported format")
        self._checked_spec(recurring)
        with self._lock:
            recurring.recurring_run_id, recurring.created_at = str(uuid4()), datetime.now(UTC).replace(microsecond=0)
            recurring.status = "ENABLED" if recurring.mode == "ENABLE" else "DISABLED"
            self.recurring[recurring.recurring_run_id] = recurring
        return recurring

    def _delete_recurring_run(self, recurring_id: str, policy: str | None) -> dict:
        """As Kubernetes does, which ends the runs of what is deleted unless it is told to leave them alone."""
        with self._lock:
            del self.recurring[recurring_id]
        if policy == "ORPHAN":
            self.orphaned.append(recurring_id)
            return {}
        for run in [run for run in self.runs.values() if run.recurring_run_id == recurring_id]:
            self._left[run.run_id], run.state = ["CANCELED"], "CANCELING"
        return {}

    def _checked_spec(self, run) -> dict:
        """The documents of a run or a recurring run, whose parameters fit."""
        spec = run.pipeline_spec
        try:
            parsed = ParseDict(spec.get("pipeline_spec", spec), PipelineSpec())
        except ParseError as error:
            raise Refused(400, f"Invalid input error: pipeline spec: {error}") from error
        self._check_parameters(parsed, run.runtime_config.parameters or {})
        return spec

    def _work(self, run_id: str, *work) -> None:
        state = "FAILED"
        try:
            self.run(*work)
            state = "SUCCEEDED"
        except Exception as error:
            self.error = str(error)
        self._left[run_id] = [state]

    def _check_parameters(self, spec: PipelineSpec, given: dict) -> None:
        """As the server's validation of a runtime configuration against the root's inputs."""
        kinds = {
            "STRING": str,
            "BOOLEAN": bool,
            "NUMBER_INTEGER": int,
            "NUMBER_DOUBLE": (int, float),
            "STRUCT": dict,
            "LIST": list,
        }
        wanted = spec.root.input_definitions.parameters
        if set(given) - set(wanted):
            raise Refused(400, f"Invalid input error: unknown parameter {sorted(set(given) - set(wanted))[0]}")
        for name, definition in wanted.items():
            kind = (
                definition.DESCRIPTOR.fields_by_name["parameter_type"]
                .enum_type.values_by_number[definition.parameter_type]
                .name
            )
            if name not in given:
                if not definition.is_optional and not definition.HasField("default_value"):
                    raise Refused(400, f"Invalid input error: missing parameter {name}")
            elif not isinstance(given[name], kinds[kind]):
                raise Refused(400, f"Invalid input error: parameter {name} is no {kind}")

    def _advanced(self, run_id: str):
        run, left = self.runs[run_id], self._left[run_id]
        run.state = left.pop(0) if len(left) > 1 else left[0]
        if run.state == "FAILED":
            run.error = api.GoogleRpcStatus(code=13, message=self.error)
        return run
