#!/bin/sh
# Makes the secrets that the overlay kind refers to, from keys that it draws into a private folder. What is in the folder already is used
# again, so keep it: it holds the signing key.
#
#   sh manifests/overlays/kind/secrets.sh FOLDER
set -eu
umask 077
folder=${1:?name a folder for the keys}
namespace=kubeflow
store=http://medmark-seaweedfs.kubeflow.svc.cluster.local:8333
mkdir -p "$folder"
cd "$folder"

draw() { # FILE BYTES
    [ -s "$1" ] || head -c "$2" /dev/urandom | base64 | tr -d '\n' | tr '+/' '-_' | tr -d '=' > "$1"
}

secret() { # NAME, and what kubectl takes
    name=$1
    shift
    kubectl --namespace "$namespace" create secret generic "$name" --dry-run=client --output=yaml "$@" | kubectl apply --filename=-
}

for who in admin release evidence runs audits; do
    draw "$who.access_key" 12
    draw "$who.secret_key" 30
done
draw passphrase 24
if ! [ -e keys/medmark.key ]; then
    MEDMARK_KEY_PASSPHRASE=$(cat passphrase) medmark keys new --out keys
fi
[ -s run.key ] || head -c 32 /dev/urandom | base64 | tr -d '\n' > run.key

identity() { # WHO ACTION...
    printf '{"name": "%s", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], "actions": [' \
        "$1" "$(cat "$1.access_key")" "$(cat "$1.secret_key")"
    shift
    separator=
    for action; do
        printf '%s"%s"' "$separator" "$action"
        separator=', '
    done
    printf ']}'
}

may() { # BUCKET...
    for bucket; do printf 'Read:%s Write:%s List:%s Tagging:%s ' "$bucket" "$bucket" "$bucket" "$bucket"; done
}

# shellcheck disable=SC2046
{
    printf '{"identities": [\n'
    identity admin Admin Read Write List Tagging
    printf ',\n'
    identity release $(may medmark-releases)
    printf ',\n'
    identity evidence $(may medmark-evidence medmark-drops)
    printf ',\n'
    identity runs $(may medmark-runs)
    printf ',\n'
    identity audits $(may medmark-audits)
    printf '\n]}\n'
} > seaweedfs.json

keys_of() { # WHO: what opens a store
    printf -- '--from-file=access_key=%s.access_key --from-file=secret_key=%s.secret_key' "$1" "$1"
}

secret medmark-seaweedfs --from-file=seaweedfs.json
secret medmark-s3 --from-literal=endpoint="$store" --from-literal=insecure=1 $(keys_of release)
secret medmark-s3-evidence --from-literal=endpoint="$store" --from-literal=insecure=1 $(keys_of evidence)
secret medmark-s3-runs $(keys_of runs)
secret medmark-s3-audits $(keys_of audits)
secret medmark-run --from-file=key=run.key
secret medmark-signing --from-file=keys/medmark.key --from-file=passphrase
secret medmark-mlflow --from-literal=tracking_uri=http://medmark-mlflow.kubeflow.svc.cluster.local:5000
