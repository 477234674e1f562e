#!/bin/sh
# Build the shared base image custom-python-flyway:latest, and make what `docker compose up` needs beside it:
# the development key, and .env with random passwords where there are none.
#
# usage: scripts/build-base.sh [--tag NAME]... [--push] [--platform LIST] [--no-cache]
#   --tag NAME        another name for the image, as registry.example/ecom/custom-python-flyway:1.2; repeatable
#   --push            push those names afterwards (docker must be logged in there)
#   --platform LIST   as linux/arm64; several, as linux/amd64,linux/arm64, can only be pushed, and need a builder
#                     that can (docker buildx create --use)
#   --no-cache        build everything anew
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
fail() { echo "build-base: $*" >&2; exit 2; }
tags='' push='' platform='' cache=''
while [ $# -gt 0 ]; do
    case $1 in
        --tag) [ $# -gt 1 ] || fail "--tag needs a name"; tags="$tags --tag $2"; shift ;;
        --push) push=--push ;;
        --platform) [ $# -gt 1 ] || fail "--platform needs a list"; platform="--platform $2"; shift ;;
        --no-cache) cache=--no-cache ;;
        -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p;}' "$0"; exit ;;
        *) fail "unknown option $1; see --help" ;;
    esac
    shift
done
[ -z "$push" ] || [ "$tags" ] || fail "--push needs a --tag that names where to"
case $platform in *,*) [ "$push" ] || fail "several platforms can only be pushed: add --tag and --push" ;; esac
docker version > /dev/null 2>&1 || fail "no Docker engine answers; start one, or use scripts/up, which needs none"
docker buildx version > /dev/null 2>&1 || fail "docker has no buildx; install its plugin (docker-buildx)"

cd "$root"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' libs/common/pyproject.toml)
revision=$(git rev-parse HEAD 2> /dev/null || echo unknown)
# Without the password that some put into it.
source=$(git remote get-url origin 2> /dev/null | sed 's|//[^/@]*@|//|' | grep . || echo unknown)

# shellcheck disable=SC2086 # the options are words
build() {
    docker buildx build $cache $platform "$@" --file base-images/python-flyway/Dockerfile \
        --build-arg VERSION="$version" --build-arg REVISION="$revision" --build-arg SOURCE="$source" . ||
        fail "the base image was not built; the first error above names the artifact or the step"
}
# shellcheck disable=SC2086
case $platform in
    *,*) build $tags --push && exit ;;
    *) build --load --tag custom-python-flyway:latest --tag "custom-python-flyway:$version" $tags ;;
esac
if [ "$push" ]; then
    for tag in $tags; do [ "$tag" = --tag ] || docker push "$tag"; done
fi
infra/containers/prepare
