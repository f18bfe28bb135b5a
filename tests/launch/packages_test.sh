#!/usr/bin/env bash
# Packages that are not installed are found, and asked for, under the shell options of the scripts that call for them. A bare machine cannot
# be had here, so dpkg-query and apt-get are stand-ins that fail as the real ones do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source launch/packages.sh

failures=0
fail() { echo "$1" >&2; failures=$((failures + 1)); }

stand_ins=$(mktemp -d)
trap 'rm -rf "$stand_ins"' EXIT
# Knows `there` alone; like Debian's, it prints what it knows and fails for a name that it does not.
cat > "$stand_ins/dpkg-query" << 'STAND_IN'
#!/usr/bin/env bash
result=0
for name in "${@:4}"; do
  case $name in
    there) echo "there installed" ;;
    removed) echo "removed config-files" ;;
    *) echo "dpkg-query: no packages found matching $name" >&2; result=1 ;;
  esac
done
exit $result
STAND_IN
cat > "$stand_ins/apt-get" << STAND_IN
#!/usr/bin/env bash
echo "\$*" >> "$stand_ins/asked"
[[ \$* != *no-such-package* ]]
STAND_IN
printf '#!/usr/bin/env bash\nexec "${@:2}"\n' > "$stand_ins/sudo"
chmod +x "$stand_ins"/{dpkg-query,apt-get,sudo}
PATH=$stand_ins:$PATH

[[ $(missing_packages there) == "" ]] || fail "an installed package is called missing"
[[ $(missing_packages removed there absent) == $'removed\nabsent' ]] || fail "missing: '$(missing_packages removed there absent)'"
mapfile -t missing < <(missing_packages absent there)  # as install_packages asks
[[ ${missing[*]} == absent ]] || fail "in a substituted process, missing: '${missing[*]}'"

install_packages there 2> /dev/null || fail "nothing is missing, and yet it failed"
[[ ! -e $stand_ins/asked ]] || fail "nothing is missing, and yet apt-get was called: $(cat "$stand_ins/asked")"
install_packages there absent 2> /dev/null || fail "an absent package was not installed"
grep -q ' install .* absent$' "$stand_ins/asked" 2> /dev/null || fail "apt-get was not asked for the absent package"
if message=$(install_packages no-such-package 2>&1); then fail "a package that cannot be had was taken for installed"; fi
[[ $message == *"error: could not install no-such-package"* ]] || fail "what cannot be installed is not named: $message"

((failures == 0)) || exit 1
echo "missing packages are found and asked for"
