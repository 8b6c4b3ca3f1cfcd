# shellcheck shell=bash
# Sourced by the other scripts: where prepared artifacts live, how a step is
# shown, how an entry of the build cache is made once and whole.

# Prepared artifacts live outside the checkout, under keys made of their inputs.
BANGER_BUILD_CACHE=${BANGER_BUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/banger-build}
export BANGER_BUILD_CACHE
export LC_ALL=C.UTF-8

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

# ticker LABEL LOG: shows that a step goes on, until it is killed or the script
# that started it is gone. A terminal gets one line that ticks, a log a line
# every 20 seconds.
ticker() {
    local label=$1 log=$2 owner=$$ start=$SECONDS elapsed last
    while kill -0 "$owner" 2>/dev/null; do
        sleep 1
        elapsed=$((SECONDS - start))
        if [ -t 2 ]; then
            last=$(tail -c 200 "$log" 2>/dev/null | tr '\r' '\n' | tail -n 1 | cut -c 1-50)
            printf '\r\033[K%s … %d s  %s' "$label" "$elapsed" "$last" >&2
        elif [ $((elapsed % 20)) -eq 0 ]; then
            say "$label … $elapsed s"
        fi
    done
}

# step LABEL COMMAND...: runs the command with its output in a log, shows that it
# goes on and how long it took, and prints the end of the log when it fails, 40
# lines or $step_tail.
# Do not call it in a condition: bash then ignores `set -e` inside functions.
step() {
    local label=$1 log start=$SECONDS tick rc
    shift
    log=$(mktemp)
    ticker "$label" "$log" &
    tick=$!
    set +e
    (
        trap - EXIT
        set -e
        "$@"
    ) >"$log" 2>&1
    rc=$?
    set -e
    kill "$tick" 2>/dev/null || true
    wait "$tick" 2>/dev/null || true
    if [ -t 2 ]; then printf '\r\033[K' >&2; fi
    if [ "$rc" -ne 0 ]; then
        tail -n "${step_tail:-40}" "$log" >&2
        rm -f "$log"
        die "$label: exit code $rc after $((SECONDS - start)) s"
    fi
    rm -f "$log"
    say "$label: $((SECONDS - start)) s"
}

# beside COMMAND...: starts the command beside what follows; join_beside waits for it, and
# a script that ends earlier ends it: `trap end_beside EXIT`. It gets a process group
# of its own because bash makes plain background commands deaf to Ctrl-C.
beside() {
    set -m
    "$@" &
    beside_job=$!
    set +m
}

join_beside() {
    local rc=0
    wait "$beside_job" || rc=$?
    beside_job=
    return "$rc"
}

end_beside() {
    if [ -n "${beside_job:-}" ]; then kill -- "-$beside_job" 2>/dev/null || true; fi
}

# need_packages NAME...: installs from the distribution what is missing.
need_packages() {
    local name missing=()
    for name in "$@"; do
        if [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" != installed ]; then
            missing+=("$name")
        fi
    done
    if [ "${#missing[@]}" -eq 0 ]; then return; fi
    command -v apt-get >/dev/null || die "missing packages (install them by hand): ${missing[*]}"
    [ "$(id -u)" -eq 0 ] || die "missing packages; as root: apt-get install ${missing[*]}"
    # Two makes at once would fail on the package manager's own lock.
    take_lock packages
    step "packages: lists" apt-get -q update
    step "packages: ${missing[*]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y install --no-install-recommends "${missing[@]}"
    drop_lock
}

# key: the first half of the SHA-256 of standard input.
key() { sha256sum | cut -c 1-32; }

# take_lock NAME: one script at a time makes an entry; the others wait and find it made.
take_lock() {
    mkdir -p "$BANGER_BUILD_CACHE"
    exec {lock_fd}>"$BANGER_BUILD_CACHE/.lock-$1"
    if ! flock -n "$lock_fd"; then
        say "$1: waiting for another build of it"
        flock "$lock_fd"
    fi
}

drop_lock() { exec {lock_fd}>&-; }

# new_entry NAME: an empty directory to build the entry in, on the cache's
# filesystem. What an interrupted build left is removed first: the caller holds
# the lock, so nobody works there.
new_entry() {
    rm -rf "$BANGER_BUILD_CACHE/.new-$1"
    mkdir -p "$BANGER_BUILD_CACHE/.new-$1"
    printf '%s\n' "$BANGER_BUILD_CACHE/.new-$1"
}

# publish DIR ENTRY: makes the finished directory the cache's entry, whole or not at all.
publish() {
    sync -f "$1"
    mv -T "$1" "$2"
    sync -f "$2"
}
