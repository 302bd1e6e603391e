#!/usr/bin/env bash
# build.sh OUT [NAME...]: builds images from this repository's own Dockerfiles without a container engine's daemon, and
# unpacks each into OUT/NAME/rootfs with its configuration in OUT/NAME/config.json. NAMEs: finetune-operator,
# finetune-trainer-cpu (default: both).
#
# Needs root, and Debian's packages buildah and mmdebstrap. The base image is Debian bookworm with Python 3.11 and what
# python:3.11-slim-bookworm adds to it, made from this machine's own package sources; torch's CPU wheel is the one that
# this machine's pip finds.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$1; shift
names=("${@:-}"); [ -n "${names[0]}" ] || names=(finetune-operator finetune-trainer-cpu)
base=localhost/finetune-base:bookworm
python=${PYTHON:-python3}
torch=$(grep '^torch==' constraints.txt)
mkdir -p "$out"; out=$(realpath "$out")
declare -A dockerfiles=([finetune-operator]=operator/Dockerfile [finetune-trainer-cpu]=trainer-image/Dockerfile.cpu)

make_base() {
    local root=$out/base
    packages=ca-certificates,netbase,tzdata,python3,python3-venv,python-is-python3
    # In this machine's own words, so that its mirrors and its certificates are used.
    { cat /etc/apt/sources.list /etc/apt/sources.list.d/debian* 2> /dev/null || true; } \
        | mmdebstrap --quiet --variant=minbase --include="$packages" bookworm "$root" -
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    local container; container=$(buildah from scratch)
    tar -C "$root" -c . > "$out/base.tar"
    buildah add --quiet "$container" "$out/base.tar" /
    buildah config --env PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin "$container"
    buildah commit --quiet --rm "$container" "$base"
    rm -rf "$out/base.tar" "$root"
}

# An index that holds torch alone, and its dependencies beside it, as TORCH_INDEX is meant to be used.
make_torch_index() {
    mkdir -p "$out/torch/index/torch" "$out/torch/wheels"
    "$python" -m pip download --quiet --dest "$out/torch/wheels" --constraint constraints.txt "$torch"
    local wheel; wheel=$(basename "$out"/torch/wheels/torch-*.whl)
    ln -f "$out/torch/wheels/$wheel" "$out/torch/index/torch/$wheel"
    echo "<a href=\"${wheel//+/%2B}\">$wheel</a>" > "$out/torch/index/torch/index.html"
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\nfind-links = /opt/torch/wheels\n' > "$out/torch/pip.conf"
}

unpack() {
    local container; container=$(buildah from "localhost/$1:e2e")
    rm -rf "${out:?}/$1"; mkdir -p "$out/$1"
    cp -a "$(buildah mount "$container")" "$out/$1/rootfs"
    buildah inspect --type image "localhost/$1:e2e" \
        | "$python" -c 'import json, sys; json.dump(json.load(sys.stdin)["OCIv1"]["config"], sys.stdout)' \
        > "$out/$1/config.json"
    buildah rm "$container" > /dev/null
}

buildah inspect --type image "$base" > /dev/null 2>&1 || make_base
[ -f "$out/torch/pip.conf" ] || make_torch_index
for name in "${names[@]}"; do
    buildah bud --quiet --isolation chroot --layers --tag "localhost/$name:e2e" --file "${dockerfiles[$name]}" \
        --build-arg BASE="$base" --build-arg TORCH_INDEX=file:///opt/torch/index --volume "$out/torch:/opt/torch:ro" \
        --secret id=pip,src="$out/torch/pip.conf" --build-arg REVISION="$(git rev-parse HEAD)" .
    unpack "$name"
    du -sh "$out/$name/rootfs" | cut -f1
done
