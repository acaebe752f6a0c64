# What a page's commands find: the drain of the page, and terminals for what goes on in the background.
set -Eeuo pipefail
set -m # each command in the background is a group of processes of its own, to be ended as a whole

# Where client commands ask who are not told.
export FLEETDRAIN_URL="http://127.0.0.1:$CONTROL_PORT"

place='before the first block'
drain='' # the process that serves
terminals=() # "group output kind" of each command in the background

begin() { place=$1; }
trap 'echo "$place: exit $? of: $BASH_COMMAND" >&2' ERR
trap 'end_all' EXIT
trap 'exit 143' TERM

# `serve` goes on in the background: it is the last of its block, and its reader reads on in another terminal.
fleetdrain() {
    if [ "${1:-}" != serve ]; then
        command fleetdrain "$@"
        return
    fi
    if [ -n "$drain" ]; then
        echo 'the drain of before still runs: the paragraph before this block is to say Ctrl-C the drain' >&2
        return 69
    fi
    : >.blocks/serve.log
    FLEETDRAIN_INGEST__LISTEN="127.0.0.1:$INGEST_PORT" FLEETDRAIN_CONTROL__LISTEN="127.0.0.1:$CONTROL_PORT" \
        command fleetdrain "$@" >.blocks/serve.out 2>.blocks/serve.log &
    drain=$!
    until grep -q '^control listening' .blocks/serve.log; do
        kill -0 "$drain"
        sleep 0.05
    done
}

# `cargo run --release -- ARGS` is the program under test, which is built.
cargo() {
    [ "$1" != build ] || return 0
    while [ "$1" != -- ]; do shift; done
    shift
    fleetdrain "$@"
}

# The reader is told to press Ctrl-C where the drain runs.
end_the_drain() {
    close_terminals service
    stop_drain
}

# It ends with 0, or with 74 when a page has left lines in a queue.
stop_drain() {
    [ -n "$drain" ] || return 0
    kill -INT "$drain"
    local code=0
    wait "$drain" || code=$?
    drain=''
    [ "$code" -eq 0 ] || [ "$code" -eq 74 ]
}

# Each line of the file $1 in a terminal of its own; what they print goes to $2. They are of the kind $3: loud ones must print
# something, quiet ones need not, services need not either and go on when another drain is started.
in_background() {
    local line number=0
    while IFS= read -r line; do
        case $line in '' | '#'*) continue ;; esac
        number=$((number + 1))
        (eval "$line") >"$2.$number" &
        terminals+=("$! $2.$number $3")
    done <"$1"
    : >"$2"
}

again_until_it_works() {
    local tries=0
    until (source "$1"); do
        tries=$((tries + 1))
        [ "$tries" -lt 60 ]
        sleep 1
    done
}

# Each line of the file $1 is a query that the Prometheus on port $2 answers.
query_each() {
    local line
    while IFS= read -r line; do
        promtool query instant "http://127.0.0.1:$2" "$line" >/dev/null
    done <"$1"
}

# Ends the terminals, of all kinds but $1: who was to print something has until now.
close_terminals() {
    local terminal group out kind tries code was=$place rest=()
    for terminal in "${terminals[@]}"; do
        read -r group out kind <<<"$terminal"
        if [ "$kind" = "${1:-}" ]; then
            rest+=("$terminal")
            continue
        fi
        begin "$out, in the background"
        tries=0
        while [ "$kind" = loud ] && [ ! -s "$out" ]; do
            tries=$((tries + 1))
            [ "$tries" -lt 200 ]
            sleep 0.1
        done
        code=0
        kill -- "-$group" 2>/dev/null || wait "$group" || code=$?
        [ "$code" -eq 0 ]
    done
    terminals=("${rest[@]}")
    begin "$was"
}

# The page is over.
finish() {
    close_terminals
    begin 'the end of the page'
    stop_drain
}

end_all() {
    local terminal
    for terminal in "${terminals[@]}"; do
        kill -- "-${terminal%% *}" 2>/dev/null || true
    done
    [ -z "$drain" ] || kill -KILL "$drain" 2>/dev/null || true
}
