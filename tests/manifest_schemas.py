"""JSON schemas of the kinds in ``manifests/`` that no package describes: the fields that are used there, and no others.

They follow the projects' own definitions: Argo Events, KFP's, Kubeflow's and Kueue's custom resources, the External Secrets Operator,
Argo CD, and KFP's ``config.go`` for the launcher's providers.
"""

NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}  # DNS-1123
TEXT, NUMBER, FLAG, FREE = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"type": "object"}


def fields(required: dict, **optional) -> dict:
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


def several(item: dict) -> dict:
    return {"type": "array", "items": item, "minItems": 1}


def named(value: dict) -> dict:
    return {"type": "object", "additionalProperties": value, "minProperties": 1}


def kind(version: str, name: str, spec: dict) -> tuple[tuple[str, str], dict]:
    metadata = fields({"name": NAME}, namespace=NAME, labels=named(TEXT), annotations=named(TEXT))
    stated = {"apiVersion": {"const": version}, "kind": {"const": name}, "metadata": metadata, "spec": spec}
    return (version, name), fields(stated)


SECRET = fields({"name": NAME, "key": TEXT})
# what is in them is looked at by the check for Pod Security
TEMPLATE = fields(
    {
        "serviceAccountName": NAME,
        "metadata": fields({"labels": named(TEXT)}),
        "securityContext": FREE,
        "container": FREE,
    }
)
PORT = fields({"name": NAME, "port": NUMBER, "targetPort": NUMBER})
WEBHOOK = fields(
    {"port": {"type": "string", "pattern": "^[0-9]+$"}, "endpoint": TEXT, "method": {"enum": ["POST", "GET", "PUT"]}},
    maxPayloadSize=NUMBER,
    authSecret=SECRET,
)
MINIO = fields(
    {
        "endpoint": TEXT,
        "bucket": fields({"name": NAME}),
        "events": several(TEXT),
        "accessKey": SECRET,
        "secretKey": SECRET,
    },
    insecure=FLAG,
    region=TEXT,
    filter=fields({}, prefix=TEXT, suffix=TEXT),
)
DEPENDENCY = fields({"name": NAME, "eventSourceName": NAME, "eventName": NAME})
# the workflow in it is checked with hera's model
TRIGGER = fields(
    {
        "template": fields(
            {"name": NAME, "k8s": fields({"operation": {"const": "create"}, "source": fields({"resource": FREE})})},
            conditions=TEXT,
        )
    },
    atLeastOnce=FLAG,
    rateLimit=fields({"unit": {"enum": ["Second", "Minute", "Hour"]}, "requestsPerUnit": NUMBER}),
    retryStrategy=fields({"steps": NUMBER}, duration=TEXT, factor={"type": "number"}, jitter={"type": "number"}),
)
# those that every Argo Events 1.9 has images for: 2.10.10 came with 1.9.2 and went with 1.9.10
BUS_VERSIONS = ("latest", "2.8.1", "2.8.2", "2.9.1", "2.9.12", "2.9.16")
JETSTREAM = fields(
    {"version": {"enum": list(BUS_VERSIONS)}},
    replicas=NUMBER,
    persistence=fields({"accessMode": {"const": "ReadWriteOnce"}, "volumeSize": TEXT}),
    securityContext=FREE,
    containerTemplate=fields({"securityContext": FREE}),
    reloaderContainerTemplate=fields({"securityContext": FREE}),
    metricsContainerTemplate=fields({"securityContext": FREE}),
)
REMOTE = fields({"secretKey": TEXT, "remoteRef": fields({"key": TEXT}, property=TEXT)})
QUOTA = fields({"name": TEXT, "nominalQuota": {"type": ["string", "integer"]}})
SCHEMAS = dict(
    [
        kind(
            "argoproj.io/v1alpha1",
            "EventSource",
            fields(
                {"template": TEMPLATE},
                service=fields({"ports": several(PORT)}),
                webhook=named(WEBHOOK),
                minio=named(MINIO),
            ),
        ),
        kind(
            "argoproj.io/v1alpha1",
            "Sensor",
            fields({"template": TEMPLATE, "dependencies": several(DEPENDENCY), "triggers": several(TRIGGER)}),
        ),
        kind("argoproj.io/v1alpha1", "EventBus", fields({"jetstream": JETSTREAM})),
        kind("pipelines.kubeflow.org/v2beta1", "Pipeline", fields({}, displayName=TEXT, description=TEXT)),
        kind(
            "pipelines.kubeflow.org/v2beta1",
            "PipelineVersion",
            fields({"pipelineName": NAME, "pipelineSpec": FREE}, displayName=TEXT, description=TEXT, platformSpec=FREE),
        ),
        kind(  # what it gives to a pod is checked as a pod's
            "kubeflow.org/v1alpha1",
            "PodDefault",
            fields(
                {"selector": fields({"matchLabels": named(TEXT)})},
                desc=TEXT,
                env=several(FREE),
                volumes=several(FREE),
                volumeMounts=several(FREE),
            ),
        ),
        kind(
            "external-secrets.io/v1",
            "ExternalSecret",
            fields(
                {
                    "secretStoreRef": fields({"name": NAME, "kind": {"enum": ["SecretStore", "ClusterSecretStore"]}}),
                    "data": several(REMOTE),
                },
                refreshInterval=TEXT,
                target=fields({}, name=NAME, creationPolicy={"enum": ["Owner", "Orphan", "Merge", "None"]}),
            ),
        ),
        (
            ("kueue.x-k8s.io/v1beta2", "ResourceFlavor"),
            fields({"apiVersion": TEXT, "kind": TEXT, "metadata": FREE}, spec=FREE),
        ),
        kind(
            "kueue.x-k8s.io/v1beta2",
            "ClusterQueue",
            fields(
                {
                    "namespaceSelector": FREE,
                    "resourceGroups": several(
                        fields(
                            {
                                "coveredResources": several(TEXT),
                                "flavors": several(fields({"name": NAME, "resources": several(QUOTA)})),
                            }
                        )
                    ),
                }
            ),
        ),
        kind("kueue.x-k8s.io/v1beta2", "LocalQueue", fields({"clusterQueue": NAME})),
        kind(
            "argoproj.io/v1alpha1",
            "Application",
            fields(
                {
                    "project": TEXT,
                    "source": fields({"repoURL": TEXT, "targetRevision": TEXT, "path": TEXT}),
                    "destination": fields({"server": TEXT}, namespace=NAME),
                },
                syncPolicy=fields({}, automated=fields({}, prune=FLAG, selfHeal=FLAG), syncOptions=several(TEXT)),
            ),
        ),
    ]
)
LAUNCHER = fields(
    {
        "s3": fields(
            {
                "default": fields(
                    {
                        "endpoint": TEXT,
                        "credentials": fields(
                            {"fromEnv": FLAG},
                            secretRef=fields({"secretName": NAME, "accessKeyKey": TEXT, "secretKeyKey": TEXT}),
                        ),
                    },
                    region=TEXT,
                    disableSSL=FLAG,
                    forcePathStyle=FLAG,
                )
            }
        )
    }
)
