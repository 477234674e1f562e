#!/bin/sh
# Build the shared base image custom-python-flyway:latest, and make what `docker compose up` needs beside it:
# the development key, and .env with random passwords where there are none.
#
# usage: scripts/build-base.sh [--tag NAME]... [--push] [--platform LIST] [--no-cache]
#   --tag NAME        another name for the image, as registry.example/ecom/custom-python-flyway:1.2; repeatable
#   --push            push those names afterwards (docker must be logged in there)
#   --platform LIST   as linux/amd64,linux/arm64 (needs a builder that can; more than one needs --push)
#   --no-cache        build everything anew
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
cd "$root"
image=custom-python-flyway
tags='' push='' platform='' cache=''
fail() { echo "build-base: $*" >&2; exit 2; }
while [ $# -gt 0 ]; do
    case $1 in
        --tag) [ $# -gt 1 ] || fail "--tag needs a name"; tags="$tags $2"; shift ;;
        --push) push=yes ;;
        --platform) [ $# -gt 1 ] || fail "--platform needs a list"; platform="--platform $2"; shift ;;
        --no-cache) cache=--no-cache ;;
        -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p;}' "$0"; exit ;;
        *) fail "unknown option $1; see --help" ;;
    esac
    shift
done
[ -z "$push" ] || [ -n "$tags" ] || fail "--push needs a --tag that names where to"
docker version > /dev/null 2>&1 || fail "no Docker engine answers; start one, or use scripts/up, which needs none"

version=$(sed -n 's/^version = "\(.*\)"/\1/p' libs/common/pyproject.toml)
revision=$(git rev-parse HEAD 2> /dev/null || echo unknown)
source=$(git remote get-url origin 2> /dev/null || echo unknown)
# shellcheck disable=SC2086 # the options are words
build() {
    DOCKER_BUILDKIT=1 docker build $cache $platform "$@" --file base-images/python-flyway/Dockerfile \
        --build-arg VERSION="$version" --build-arg REVISION="$revision" --build-arg SOURCE="${source##*@}" .
}
names="--tag $image:latest --tag $image:$version"
for tag in $tags; do names="$names --tag $tag"; done
case $platform in
    *,*) [ -n "$push" ] || fail "several platforms can only be pushed: add --push and --tag"
         # shellcheck disable=SC2086
         DOCKER_BUILDKIT=1 docker buildx build $cache $platform ${names#*--tag*--tag*"$version"} --push \
             --file base-images/python-flyway/Dockerfile --build-arg VERSION="$version" \
             --build-arg REVISION="$revision" --build-arg SOURCE="${source##*@}" .
         exit ;;
esac
# shellcheck disable=SC2086
build $names
if [ -n "$push" ]; then for tag in $tags; do docker push "$tag"; done; fi
"$root/infra/containers/prepare"
