#!/usr/bin/env bash
# Brings the programs of a real Kubernetes control plane into one directory, and prints which.
#
# They are taken from KUBEBUILDER_ASSETS where that has them (kube-apiserver, etcd, kubectl), and built
# from the modules pinned beside this script otherwise; a program that is there already is not built again.
#
#   build.sh [DIRECTORY] [PROGRAM...]       default: $ISTHMUS_ASSETS, else ~/.cache/isthmus/assets-VERSION
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
pinned() { sed -nE "s#^(require)?[[:space:]]*$2 (v[^ ]*).*#\2#p" "$here/$1/go.mod"; }
kubernetes="$(pinned kubernetes k8s.io/kubernetes)"
helm="$(pinned helm helm.sh/helm/v3)"

to="${1:-${ISTHMUS_ASSETS:-${XDG_CACHE_HOME:-$HOME/.cache}/isthmus/assets-${kubernetes#v}}}"
[ $# -gt 0 ] && shift
programs=("$@")
[ ${#programs[@]} -eq 0 ] && programs=(etcd kube-apiserver kubectl kube-controller-manager kube-scheduler coredns helm)
mkdir -p "$to"

# What `kubectl version` and `helm version` say, and what the two compare.
stamp="k8s.io/component-base/version"
stamps="-X $stamp.gitVersion=$kubernetes -X $stamp.gitMajor=1 -X $stamp.gitMinor=$(cut -d. -f2 <<<"$kubernetes")"
stamps="$stamps -X $stamp.gitTreeState=clean -X helm.sh/helm/v3/internal/version.version=$helm"

# The controllers that are built here are of one version, and an API server of another is not for them.
fits() {
    [ "$1" != kube-apiserver ] || [[ "$("$KUBEBUILDER_ASSETS/$1" --version)" == *"${kubernetes%.*}."* ]]
}

for program in "${programs[@]}"; do
    [ -x "$to/$program" ] && continue
    if [ -x "${KUBEBUILDER_ASSETS:-/nowhere}/$program" ] && fits "$program"; then
        ln -sf "$KUBEBUILDER_ASSETS/$program" "$to/$program"
        continue
    fi
    case "$program" in
        etcd) module=etcd package=go.etcd.io/etcd/server/v3 ;;
        coredns) module=coredns package=. ;;
        helm) module=helm package=helm.sh/helm/v3/cmd/helm ;;
        kube-apiserver | kube-controller-manager | kube-scheduler | kubectl)
            module=kubernetes package=k8s.io/kubernetes/cmd/$program ;;
        *) echo "$program: not one of the programs this script builds" >&2; exit 2 ;;
    esac
    command -v go >/dev/null || {
        echo "$program is not in $to, and there is no Go to build it: install Go 1.26 (https://go.dev/dl)," >&2
        echo "or set KUBEBUILDER_ASSETS to a directory that has it (setup-envtest use -p path)" >&2
        exit 1
    }
    echo "build $program $([ "$package" = . ] || echo "from $package")" >&2
    # One at a time and behind whatever else the machine does: these are large programs.
    (cd "$here/$module" && CGO_ENABLED=0 GOFLAGS=-mod=readonly nice -n 15 \
        go build -trimpath -buildvcs=false -ldflags "-s -w $stamps" -o "$to/$program.new" "$package")
    mv "$to/$program.new" "$to/$program"
done
echo "$to"
