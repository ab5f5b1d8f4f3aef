#!/usr/bin/env bash
# Makes an OCI archive of the image without a daemon: deploy/image/archive.sh BINARY ARCHIVE [TAG]
#
# The same binary yields the same archive, byte by byte. Load it with `podman load -i`, `ctr images import`,
# `kind load image-archive` or `skopeo copy oci-archive:ARCHIVE ...`.
set -euo pipefail

binary=${1:?"usage: archive.sh BINARY ARCHIVE [TAG]"}
archive=${2:?"usage: archive.sh BINARY ARCHIVE [TAG]"}
tag=${3:-latest}

# A scratch image has no dynamic linker.
if head -c 4096 "$binary" | grep -aq 'ld-linux\|ld-musl'; then
  echo "$binary is linked dynamically, and the image has nothing else in it." >&2
  echo "Build it with: RUSTFLAGS='-C target-feature=+crt-static' cargo build --profile dist --target \$(uname -m)-unknown-linux-musl -p isthmus" >&2
  exit 1
fi
case $(od -An -tx1 -j18 -N2 "$binary" | tr -d ' ') in
  3e00) architecture=amd64 ;;
  b700) architecture=arm64 ;;
  *) echo "$binary is for no architecture that is known here." >&2; exit 1 ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root blobs=$work/oci/blobs/sha256
mkdir -p "$root/usr/local/bin" "$root/tmp" "$root/etc/ssl/certs" "$blobs"
install -m 0755 "$binary" "$root/usr/local/bin/isthmus"
chmod 1777 "$root/tmp"
# Roots for TLS to servers outside of the mesh.
for bundle in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
  if [ -f "$bundle" ]; then
    install -m 0644 "$bundle" "$root/etc/ssl/certs/ca-certificates.crt"
    break
  fi
done

pack() { # directory, paths...
  tar -C "$1" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=gnu -cf - "${@:2}"
}
digest() { sha256sum "$1" | cut -d' ' -f1; }
blob() { # file: its digest, once it is among the blobs
  local sum
  sum=$(digest "$1")
  mv "$1" "$blobs/$sum"
  echo "$sum"
}
size() { stat -c %s "$blobs/$1"; }

pack "$root" . >"$work/layer.tar"
content=$(digest "$work/layer.tar")
gzip -n -9 <"$work/layer.tar" >"$work/layer.tar.gz"
layer=$(blob "$work/layer.tar.gz")

cat >"$work/config.json" <<JSON
{"architecture":"$architecture","os":"linux","config":{"User":"1337:1337","Entrypoint":["/usr/local/bin/isthmus"],"Labels":{"org.opencontainers.image.source":"https://github.com/isthmus-mesh/isthmus","org.opencontainers.image.licenses":"Apache-2.0"}},"rootfs":{"type":"layers","diff_ids":["sha256:$content"]},"history":[{"created_by":"deploy/image/archive.sh"}]}
JSON
config=$(blob "$work/config.json")
cat >"$work/manifest.json" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$config","size":$(size "$config")},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:$layer","size":$(size "$layer")}]}
JSON
manifest=$(blob "$work/manifest.json")
cat >"$work/oci/index.json" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:$manifest","size":$(size "$manifest"),"platform":{"architecture":"$architecture","os":"linux"},"annotations":{"org.opencontainers.image.ref.name":"$tag"}}]}
JSON
echo '{"imageLayoutVersion":"1.0.0"}' >"$work/oci/oci-layout"
pack "$work/oci" oci-layout index.json blobs >"$archive"
echo "$archive: isthmus:$tag for $architecture, $(du -h "$archive" | cut -f1), manifest sha256:$manifest"
