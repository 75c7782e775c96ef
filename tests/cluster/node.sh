#!/usr/bin/env bash
# One real Kubernetes node (etcd, control plane, containerd, runc, kubelet, kube-proxy, CoreDNS) in mount, network, pid,
# cgroup, uts and ipc namespaces of its own. Outside them it makes only: a veth pair, routes to the ranges of pods and
# services, and one cgroup in each v1 hierarchy. `down` takes all of these away, whatever state the node is in.
#
#   node.sh check           what this machine lacks for a node, a line each
#   node.sh up [PID]        start; returns when node and CoreDNS are Ready; with PID, `down` when that process ends
#   node.sh down            stop and remove everything
#   node.sh status          what runs
#   node.sh kubectl ARG…    as the cluster's administrator
#   node.sh sh [ARG…]       a command, else a shell, in the node's namespaces
#   node.sh load FILE…      take image archives in
#   node.sh stop DAEMON     end a daemon with SIGKILL and keep it from coming back
#   node.sh start DAEMON    let it come back
#   node.sh restart DAEMON  end it with SIGKILL; it comes back by itself
#   node.sh logs DIR        copy the logs of daemons and pods to DIR
#
# From outside, the API server, every pod and every service address are reached directly, among them 10.97.N.0/24 for
# whoever plays the load balancer, and pods and the API server reach what listens outside at 10.200.N.1 (webhooks, a test's
# own servers). N is the first number that no other node on this machine has; $STATE/id says it, $STATE/admin.kubeconfig
# leads to the API server. Nodes do not reach each other's pods.
#
# `cargo xtask cluster` and the fixture in crates/testkit call it. They set STATE (where the node keeps its files, and by
# which it is known), BIN (its programs) and IMAGES (archives of the images that it runs itself: pause and coredns).
set -euo pipefail

TARGET=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/target
export BIN=${BIN:-$TARGET/tools} IMAGES=${IMAGES:-$TARGET/cluster/images} STATE=${STATE:-$TARGET/cluster/default}
CLAIMS=/run/lateen-nodes                             # one folder for each number in use on this machine
MEMORY_LIMIT=${MEMORY_LIMIT:-8G} CPU_SHARES=${CPU_SHARES:-4096}
CGROUPS="cpu cpuacct cpuset memory devices freezer blkio pids systemd"
PKI=$STATE/pki

say() { echo "$*" >&2; }
derive() { # number: everything that differs between nodes side by side
  export ID=$1 NAME=lateen$1                         # of the node, its cgroups and its link
  export HOST_IP=10.200.$ID.1 NODE_IP=10.200.$ID.2
  export POD_CIDR=10.244.$ID.0/24 SVC_CIDR=10.96.$ID.0/24
  export LB_CIDR=10.97.$ID.0/24                      # for who gives Services of type LoadBalancer addresses
  export API_SVC_IP=10.96.$ID.1 DNS_IP=10.96.$ID.10
}
check() { # what is missing for a node, a line each: "what<TAB>Debian package, if one brings it"
  [ "$(id -u)" = 0 ] || echo "root"
  local tool
  for tool in containerd:containerd runc:runc iptables:iptables conntrack:conntrack ip:iproute2 unshare:util-linux \
    openssl:openssl curl:curl tcpdump:tcpdump; do
    command -v "${tool%%:*}" >/dev/null || printf '%s\t%s\n' "${tool%%:*}" "${tool#*:}"
  done
  [ -x /usr/lib/cni/bridge ] || printf '/usr/lib/cni/bridge\tcontainernetworking-plugins\n'
  local c
  for c in $CGROUPS; do
    [ -d "/sys/fs/cgroup/$c" ] || { echo "cgroup v1 hierarchies (this machine has no /sys/fs/cgroup/$c)"; break; }
  done
}

# ---------------------------------------------------------------- certificates
cert() { # file CN O [SAN]
  local f=$PKI/$1 subj="/CN=$2"
  [ -n "$3" ] && subj="/O=$3/CN=$2"
  openssl ecparam -name prime256v1 -genkey -noout -out "$f.key"
  openssl req -new -key "$f.key" -subj "$subj" -out "$f.csr"
  openssl x509 -req -in "$f.csr" -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -set_serial "0x$(openssl rand -hex 8)" -days 3650 -out "$f.crt" \
    -extfile <(printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth,serverAuth\n%s' "${4:+subjectAltName=$4}") 2>/dev/null
  rm "$f.csr"
}
kubeconfig() { # name
  cat > "$STATE/$1.kubeconfig" <<K
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://$NODE_IP:6443", certificate-authority-data: $(base64 -w0 "$PKI/ca.crt")}}]
users: [{name: u, user: {client-certificate-data: $(base64 -w0 "$PKI/$1.crt"), client-key-data: $(base64 -w0 "$PKI/$1.key")}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
K
}
write_pki() {
  mkdir -p "$PKI"
  openssl ecparam -name prime256v1 -genkey -noout -out "$PKI/ca.key"
  openssl req -x509 -new -key "$PKI/ca.key" -subj /CN=kubernetes -days 3650 -out "$PKI/ca.crt" -addext 'keyUsage=critical,digitalSignature,keyCertSign,cRLSign'
  openssl genrsa -out "$PKI/sa.key" 2048 2>/dev/null
  openssl rsa -in "$PKI/sa.key" -pubout -out "$PKI/sa.pub" 2>/dev/null
  cert apiserver kube-apiserver "" "IP:$NODE_IP,IP:127.0.0.1,IP:$API_SVC_IP,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
  cert apiserver-kubelet kube-apiserver-kubelet-client system:masters
  cert kubelet-server "system:node:$NAME" system:nodes "IP:$NODE_IP,DNS:$NAME"
  cert admin admin system:masters
  cert kubelet "system:node:$NAME" system:nodes
  cert controller-manager system:kube-controller-manager ""
  cert scheduler system:kube-scheduler ""
  cert proxy system:kube-proxy ""
  for n in admin kubelet controller-manager scheduler proxy; do kubeconfig $n; done
}

# ---------------------------------------------------------------- config files
write_config() {
  mkdir -p "$STATE"/{etc/cni,log,run,hold,lib/containerd,lib/kubelet,podlogs,containerlogs}
  cat > "$STATE/etc/containerd.toml" <<T
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing", "io.containerd.internal.v1.opt"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true      # no CAP_SYS_RESOURCE here: oom_score_adj cannot be lowered
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  max_concurrent_downloads = 3
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
T
  mkdir -p "$STATE/etc/cni/net.d"
  cat > "$STATE/etc/cni/net.d/10-bridge.conflist" <<T
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": [[{"subnet": "$POD_CIDR"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
T
  cat > "$STATE/etc/kubelet.yaml" <<T
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 0.0.0.0
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $PKI/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $PKI/kubelet-server.crt
tlsPrivateKeyFile: $PKI/kubelet-server.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
failCgroupV1: false
cgroupsPerQOS: true
enforceNodeAllocatable: []
protectKernelDefaults: false
failSwapOn: false
clusterDomain: cluster.local
clusterDNS: [$DNS_IP]
resolvConf: $STATE/etc/resolv.conf
evictionHard: {memory.available: 1Mi, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%}
imageGCHighThresholdPercent: 100
maxPods: 200
serializeImagePulls: false
registryPullQPS: 0
eventRecordQPS: 0
kubeAPIQPS: 200
kubeAPIBurst: 400
syncFrequency: 10s
nodeStatusUpdateFrequency: 5s
shutdownGracePeriod: 0s
T
  cat > "$STATE/etc/kube-proxy.yaml" <<T
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: $POD_CIDR
detectLocalMode: ClusterCIDR
hostnameOverride: $NAME
bindAddress: 0.0.0.0
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
clientConnection: {kubeconfig: $STATE/proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
iptables: {minSyncPeriod: 100ms, syncPeriod: 30s}
T
  printf 'nameserver %s\n' "$HOST_IP" > "$STATE/etc/resolv.conf"
  printf '127.0.0.1 localhost\n%s %s\n' "$NODE_IP" "$NAME" > "$STATE/etc/hosts"
  cat > "$STATE/etc/coredns.yaml" <<T
apiVersion: v1
kind: ServiceAccount
metadata: {name: coredns, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: system:coredns}
rules:
- {apiGroups: [""], resources: [endpoints, services, pods, namespaces], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: system:coredns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:coredns}
subjects: [{kind: ServiceAccount, name: coredns, namespace: kube-system}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: coredns, namespace: kube-system}
data:
  Corefile: |
    cluster.local:53 in-addr.arpa:53 ip6.arpa:53 {
      errors
      health
      ready
      kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
      }
      cache 2
    }
    .:53 {
      errors
      template ANY ANY {
        rcode NXDOMAIN
      }
    }
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: coredns, namespace: kube-system}
spec:
  replicas: 1
  selector: {matchLabels: {k8s-app: kube-dns}}
  template:
    metadata: {labels: {k8s-app: kube-dns}}
    spec:
      serviceAccountName: coredns
      dnsPolicy: Default
      priorityClassName: system-cluster-critical
      containers:
      - name: coredns
        image: localhost/coredns:1
        imagePullPolicy: Never
        args: [-conf, /etc/coredns/Corefile]
        volumeMounts: [{name: config, mountPath: /etc/coredns}]
        ports: [{name: dns, containerPort: 53, protocol: UDP}, {name: dns-tcp, containerPort: 53, protocol: TCP}]
        readinessProbe: {httpGet: {path: /ready, port: 8181}, periodSeconds: 1}
      volumes: [{name: config, configMap: {name: coredns}}]
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec:
  clusterIP: $DNS_IP
  selector: {k8s-app: kube-dns}
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
T
}

# ------------------------------------------------- inside the node's namespaces
daemon() { # name command... : keep it running unless it is stopped, log to $STATE/log/name.log
  local name=$1; shift
  ( while :; do
      while [ -e "$STATE/hold/$name" ]; do sleep 0.2; done
      "$@" >> "$STATE/log/$name.log" 2>&1 & echo $! > "$STATE/run/$name.pid"
      wait $! || true
      echo "--- $name ended" >> "$STATE/log/$name.log"; sleep 0.5
    done ) &
}
node() {
  # Mounts: a sysfs of this network namespace, the v1 hierarchies rooted at our
  # own cgroup (cgroup namespace), private /run and /var/lib/{kubelet,containerd}.
  mount --make-rshared /
  mount -t sysfs sysfs /sys
  mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
  for c in $CGROUPS; do   # the kubelet insists on the named hierarchy "systemd" too
    mkdir "/sys/fs/cgroup/$c"; o=$c; [ "$c" = systemd ] && o=none,name=systemd
    mount -t cgroup -o "$o" cgroup "/sys/fs/cgroup/$c"
  done
  mount -t tmpfs -o mode=755 tmpfs /run
  mkdir -p /run/lock /run/cni-ipam /var/lib/kubelet /var/lib/containerd /etc/cni /var/log/pods /var/log/containers
  mount --bind "$STATE/lib/kubelet" /var/lib/kubelet
  mount --bind "$STATE/lib/containerd" /var/lib/containerd
  mount --bind "$STATE/podlogs" /var/log/pods
  mount --bind "$STATE/containerlogs" /var/log/containers
  mount --bind "$STATE/etc/cni" /etc/cni
  mount --bind "$STATE/etc/hosts" /etc/hosts
  mount --bind "$(realpath "$STATE/etc/resolv.conf")" "$(realpath /etc/resolv.conf)"
  # The kubelet writes these machine-wide settings unless they already hold what it wants; give it files that do.
  for kv in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    f=/run/sysctl-${kv%%=*}; mkdir -p "${f%/*}"; echo "${kv#*=}" > "$f"; mount --bind "$f" "/proc/sys/${kv%%=*}"
  done
  hostname "$NAME"
  ip link set lo up
  until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
  ip addr add "$NODE_IP/30" dev eth0; ip link set eth0 up; ip route add default via "$HOST_IP"
  # Refused at once until kube-proxy leads it on; else it would go to and fro between outside and node.
  ip route add unreachable "$LB_CIDR"
  echo 1 > /proc/sys/net/ipv4/ip_forward
  echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null || true

  unset NOTIFY_SOCKET
  daemon containerd containerd --config "$STATE/etc/containerd.toml" --log-level info
  daemon etcd "$BIN/etcd" --data-dir "$STATE/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster default=http://127.0.0.1:2380
  daemon kube-apiserver "$BIN/kube-apiserver" --etcd-servers http://127.0.0.1:2379 \
    --bind-address 0.0.0.0 --secure-port 6443 --advertise-address "$NODE_IP" \
    --tls-cert-file "$PKI/apiserver.crt" --tls-private-key-file "$PKI/apiserver.key" --client-ca-file "$PKI/ca.crt" \
    --kubelet-client-certificate "$PKI/apiserver-kubelet.crt" --kubelet-client-key "$PKI/apiserver-kubelet.key" \
    --kubelet-certificate-authority "$PKI/ca.crt" --kubelet-preferred-address-types InternalIP \
    --service-account-issuer https://kubernetes.default.svc.cluster.local \
    --service-account-key-file "$PKI/sa.pub" --service-account-signing-key-file "$PKI/sa.key" \
    --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --allow-privileged \
    --service-cluster-ip-range "$SVC_CIDR"
  # The images, before the kubelet can ask for them.
  until ctr version >/dev/null 2>&1; do sleep 0.1; done
  for f in "$IMAGES"/*.tar; do ctr -n k8s.io images import "$f" >> "$STATE/log/images.log" 2>&1; done
  # The clients that exit when the API server is not there yet start after it.
  until curl -sf --cacert "$PKI/ca.crt" https://127.0.0.1:6443/readyz >/dev/null 2>&1; do sleep 0.1; done
  daemon kube-controller-manager "$BIN/kube-controller-manager" --kubeconfig "$STATE/controller-manager.kubeconfig" \
    --authentication-kubeconfig "$STATE/controller-manager.kubeconfig" --authorization-kubeconfig "$STATE/controller-manager.kubeconfig" \
    --service-account-private-key-file "$PKI/sa.key" --root-ca-file "$PKI/ca.crt" --use-service-account-credentials \
    --cluster-signing-cert-file "$PKI/ca.crt" --cluster-signing-key-file "$PKI/ca.key" \
    --leader-elect=false --bind-address 127.0.0.1 --kube-api-qps 200 --kube-api-burst 400
  daemon kube-scheduler "$BIN/kube-scheduler" --kubeconfig "$STATE/scheduler.kubeconfig" \
    --authentication-kubeconfig "$STATE/scheduler.kubeconfig" --authorization-kubeconfig "$STATE/scheduler.kubeconfig" \
    --leader-elect=false --bind-address 127.0.0.1
  daemon kubelet "$BIN/kubelet" --config "$STATE/etc/kubelet.yaml" --kubeconfig "$STATE/kubelet.kubeconfig" \
    --hostname-override "$NAME" --node-ip "$NODE_IP" --v 2
  daemon kube-proxy "$BIN/kube-proxy" --config "$STATE/etc/kube-proxy.yaml" --v 2
  wait
}

# --------------------------------------------------------------------- outside
alive() { # folder name: the pid of unshare, if the node of that folder runs
  local p; p=$(cat "$1/unshare.pid" 2>/dev/null) && [ -d "/proc/$p" ] && tr '\0' ' ' < "/proc/$p/cmdline" | grep -q "__node $2 " && echo "$p"
}
init_pid() { local p; p=$(alive "$STATE" "$NAME") && awk '{print $1}' "/proc/$p/task/$p/children"; }
kubectl() { "$BIN/kubectl" --kubeconfig "$STATE/admin.kubeconfig" "$@"; }
in_node() { local p; p=$(init_pid) || { say "$STATE: not running"; return 1; }; nsenter -t "$p" -m -n -p -u -i -C "$@"; }
taken() { # number: whether a node that runs or starts has it
  local c=$CLAIMS/$1 owner
  # Its addresses may be somebody else's altogether.
  ip -4 -o addr show to "10.200.$1.0/30" | grep -vq " lateen$1-h " && return 0
  [ -d "$c" ] || return 1
  owner=$(cat "$c/state" 2>/dev/null) || return 1
  [ -d "/proc/$(cat "$c/pid" 2>/dev/null || echo none)" ] || alive "$owner" "lateen$1" >/dev/null
}
claim() { # the first free number
  mkdir -p "$CLAIMS"
  exec 9> "$CLAIMS/lock"; flock 9
  local id
  for id in $(seq 250); do
    taken "$id" && continue
    derive "$id"; remove_outside
    mkdir -p "$CLAIMS/$id" "$STATE"; echo "$STATE" > "$CLAIMS/$id/state"; echo $$ > "$CLAIMS/$id/pid"; echo "$id" > "$STATE/id"
    exec 9>&-; return
  done
  say "250 nodes run already"; return 1
}
remove_outside() { # what a node of this number has outside its namespaces
  ip link del "$NAME-h" 2>/dev/null || true
  # The kernel takes a while to end the last process of the pid namespace; until then its cgroups are busy.
  local c left
  for _ in $(seq 100); do
    left=0
    for c in $CGROUPS; do
      [ -d "/sys/fs/cgroup/$c/$NAME" ] || continue
      find "/sys/fs/cgroup/$c/$NAME" -depth -type d -exec rmdir {} + 2>/dev/null || true
      [ -d "/sys/fs/cgroup/$c/$NAME" ] && left=1
    done
    [ $left = 0 ] && break; sleep 0.1
  done
  rm -rf "${CLAIMS:?}/$ID"
}

up() { # [pid]
  local owner=${1:-}
  if [ -f "$STATE/id" ]; then
    derive "$(cat "$STATE/id")"
    if [ -n "$(init_pid || true)" ]; then say "already up"; return; fi
    down
  fi
  local missing; missing=$(check)
  [ -z "$missing" ] || { say "missing: $missing"; exit 1; }
  local b; for b in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do
    [ -x "$BIN/$b" ] || { say "missing: $BIN/$b"; exit 1; }
  done
  for b in pause coredns; do [ -f "$IMAGES/$b.tar" ] || { say "missing: $IMAGES/$b.tar"; exit 1; }; done
  SECONDS=0
  claim; write_pki; write_config
  local c d k
  for c in $CGROUPS; do
    d=/sys/fs/cgroup/$c/$NAME; mkdir -p "$d"
    if [ "$c" = cpuset ]; then for k in cpus mems; do cat "/sys/fs/cgroup/cpuset/cpuset.$k" > "$d/cpuset.$k"; done; fi
  done
  echo "$MEMORY_LIMIT" > "/sys/fs/cgroup/memory/$NAME/memory.limit_in_bytes"
  echo "$CPU_SHARES" > "/sys/fs/cgroup/cpu/$NAME/cpu.shares"
  setsid bash -c '
    for c in '"$CGROUPS"'; do echo $$ > /sys/fs/cgroup/$c/$NAME/cgroup.procs; done
    echo $$ > "$STATE/unshare.pid"
    exec unshare --mount --net --pid --uts --ipc --cgroup --fork --kill-child --mount-proc '"${BASH_SOURCE[0]@Q}"' __node "$NAME" "$STATE"' \
    < /dev/null > "$STATE/log/node.log" 2>&1 &
  local p=""; for _ in $(seq 100); do p=$(init_pid || true); [ -n "$p" ] && break; sleep 0.05; done
  [ -n "$p" ] || { say "the node did not start:"; cat "$STATE/log/node.log" >&2; return 1; }
  if [ -n "$owner" ]; then
    setsid bash -c 'tail --pid="$1" -f /dev/null; exec "$2" down' watch "$owner" "${BASH_SOURCE[0]}" < /dev/null > /dev/null 2>&1 &
    echo $! > "$STATE/watch.pid"
  fi
  ip link add "$NAME-h" type veth peer name eth0 netns "$p"
  ip addr add "$HOST_IP/30" dev "$NAME-h"; ip link set "$NAME-h" up
  ip route add "$POD_CIDR" via "$NODE_IP"; ip route add "$SVC_CIDR" via "$NODE_IP"
  ip route add "$LB_CIDR" via "$NODE_IP"
  wait_for 60 "API server" 'kubectl get --raw /readyz'
  kubectl apply -f "$STATE/etc/coredns.yaml" >/dev/null
  wait_for 60 "node" "kubectl get node $NAME"
  kubectl wait --for=condition=Ready "node/$NAME" --timeout=60s >/dev/null; say "node Ready after ${SECONDS} s"
  wait_for 30 "default service account" 'kubectl -n default get serviceaccount default'
  kubectl -n kube-system rollout status deployment/coredns --timeout=60s >/dev/null; say "CoreDNS ready after ${SECONDS} s"
  rm -f "$CLAIMS/$ID/pid"
}
wait_for() { # seconds what command
  local end=$((SECONDS + $1))
  until eval "$3" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { say "$2: not there after $1 s; see $STATE/log"; return 1; }; sleep 0.2
  done; say "$2 there after ${SECONDS} s"
}
down() {
  [ -f "$STATE/id" ] || { rm -rf "$STATE"; return 0; }
  derive "$(cat "$STATE/id")"
  local p; p=$(alive "$STATE" "$NAME" || true)
  if [ -n "$p" ]; then kill -KILL "$p"; while [ -d "/proc/$p" ]; do sleep 0.05; done; fi
  p=$(cat "$STATE/watch.pid" 2>/dev/null || true)
  if [ -n "$p" ] && [ "$p" != $$ ] && tr '\0' ' ' < "/proc/$p/cmdline" 2>/dev/null | grep -q "tail --pid.* watch "; then kill -KILL -- "-$p"; fi
  # A number that has gone to another node since is not ours to clean.
  [ "$(cat "$CLAIMS/$ID/state" 2>/dev/null || true)" != "$STATE" ] || remove_outside
  rm -rf "$STATE"
}
end_daemon() { # name
  local p; p=$(cat "$STATE/run/$1.pid" 2>/dev/null) || { say "no daemon $1"; return 1; }
  in_node kill -KILL "$p" 2>/dev/null || true
}

case ${1:-} in
  check) check; exit ;;
  up) shift; up "$@"; exit ;;
  down) down; exit ;;
  __node) node ;;
  status | kubectl | sh | load | stop | start | restart | logs) ;;
  *) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
[ -f "$STATE/id" ] || { say "$STATE: not running"; exit 1; }
derive "$(cat "$STATE/id")"
case ${1:-} in
  kubectl) shift; kubectl "$@" ;;
  sh) shift; if [ $# = 0 ]; then in_node bash; else in_node "$@"; fi ;;
  load) shift; for f in "$@"; do in_node ctr -n k8s.io images import "$(realpath "$f")"; done ;;
  status) p=$(init_pid || true); echo "number $ID, init pid: ${p:-none}"; [ -z "$p" ] || { kubectl get nodes -o wide; kubectl get pods -A -o wide; } ;;
  stop) touch "$STATE/hold/$2"; end_daemon "$2" ;;
  start) rm -f "$STATE/hold/$2" ;;
  restart) end_daemon "$2" ;;
  logs) mkdir -p "$2"; cp -r "$STATE/log/." "$2/"; cp -r "$STATE/podlogs" "$2/pods" ;;
esac
