#!/usr/bin/env bash
# What `cargo xtask cluster` does, on kind, for those who have it and Docker:
#
#   tests/cluster/kind.sh up         a cluster of the Kubernetes that Lateen is tested with
#   tests/cluster/kind.sh load       Lateen's images, built first where they are not there yet
#   tests/cluster/kind.sh install    the charts, with these images, and what it takes until all is ready
#   tests/cluster/kind.sh down       remove the cluster
#
# NAME names the cluster (lateen), KIND, KUBECTL and HELM the programs, NODE the image of its node.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

NAME=${NAME:-lateen} KIND=${KIND:-kind} KUBECTL=${KUBECTL:-kubectl} HELM=${HELM:-helm}
NODE=${NODE:-kindest/node:v1.34.0}
CONTEXT=kind-$NAME

need() { command -v "$1" >/dev/null || { echo "missing: $1 ($2)" >&2; exit 1; }; }

up() {
  need "$KIND" https://kind.sigs.k8s.io; need "$KUBECTL" https://kubernetes.io/docs/tasks/tools
  if "$KIND" get clusters 2>/dev/null | grep -qx "$NAME"; then echo "$NAME is up already"; return; fi
  "$KIND" create cluster --name "$NAME" --image "$NODE" --wait 120s
}
load() {
  need "$KIND" https://kind.sigs.k8s.io
  local image
  for image in lateend proxy shop; do
    [ -f "target/images/$image.tar" ] || cargo xtask images
    "$KIND" load image-archive --name "$NAME" "target/images/$image.tar"
  done
}
install() {
  need "$HELM" https://helm.sh
  local began=$SECONDS
  "$HELM" --kube-context "$CONTEXT" upgrade --install lateen-base charts/base -n istio-system --create-namespace
  "$HELM" --kube-context "$CONTEXT" upgrade --install lateen charts/lateen -n istio-system \
    --set global.hub=localhost/lateen --wait --timeout 3m
  echo "Lateen is ready after $((SECONDS - began)) s; kubectl --context $CONTEXT"
}

case ${1:-} in
  up) up ;;
  load) load ;;
  install) install ;;
  down) need "$KIND" https://kind.sigs.k8s.io; "$KIND" delete cluster --name "$NAME" ;;
  *) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
