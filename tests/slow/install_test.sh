#!/usr/bin/env bash
# The install tree works alone: another project finds the package, links it and runs; the installed program starts; a Debian package is made.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=$(dirname "${CONCLAVE_BIN_DIR:?the folder of the built programs}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake --build "$build" --target conclave conclave_trainer --parallel 2 > "$work/log" || { tail -n 30 "$work/log" >&2; exit 1; }
DESTDIR='' cmake --install "$build" --prefix "$work/prefix" > "$work/log" || { tail -n 30 "$work/log" >&2; exit 1; }
"$work/prefix/bin/conclave" version

cmake -S tests/consumer -B "$work/consumer" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$work/prefix" > "$work/log" ||
  { tail -n 30 "$work/log" >&2; exit 1; }
cmake --build "$work/consumer" --parallel 2 > "$work/log" || { tail -n 30 "$work/log" >&2; exit 1; }
# Nothing of this tree is used: only what was installed.
if grep -F -- "-I$PWD" "$work/consumer/build.ninja"; then
  echo "the consumer reads headers of the source tree" >&2
  exit 1
fi
"$work/consumer/consumer"

for tool in dpkg-deb dpkg-shlibdeps; do
  if ! command -v "$tool" > /dev/null; then
    echo "no package is made: $tool is not installed (package dpkg-dev)"
    exit 0
  fi
done
(cd "$build" && cpack -G DEB -B "$work/package" > "$work/log") || { tail -n 30 "$work/log" >&2; exit 1; }
package=$(ls "$work"/package/*.deb)
dpkg-deb --field "$package" Package Version Depends
dpkg-deb --contents "$package" > "$work/contents"
for path in ./usr/bin/conclave ./usr/include/conclave/trainer/trainer.h ./usr/include/conclave/proto/experiment.pb.h; do
  grep -q " $path\$" "$work/contents" || { echo "$path is not in the package" >&2; exit 1; }
done
grep -q 'conclaveConfig.cmake$' "$work/contents"
