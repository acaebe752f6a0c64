#!/usr/bin/env bash
# Writes the seeds that were made by hand; those that fuzzing found stay as they are.
#
# Each begins with what to do, as src/…/fuzz.rs reads it (a digit is a choice), and goes on with the bytes to do it with.
set -euo pipefail
cd "$(dirname "$0")/seeds"

fly='{"event":{"provider":"app"},"fly":{"app":{"instance":"4d891d77b05118","name":"my-app"},"region":"ams"},"host":"a1b2","log":{"level":"info"},"message":"GET /health 200","timestamp":"2026-01-02T03:04:05.678901234Z"}'
small='{"machine_id":"m","message":"a\\nb"}'

# seed TARGET NAME FORMAT [ARGUMENT…]: as printf has it.
seed() {
    local file="$1/$2"
    shift 2
    mkdir -p "${file%/*}"
    # shellcheck disable=SC2059 # the format is the point
    printf "$@" >"$file"
}

# body: encoding, bytes as they are or encoded, two caps, three sizes of pieces, two changes of a place and a byte.
none='00\x0000\x00'
for encoding in 0 1 2 3 4; do
    seed body "encoded-$encoding" "${encoding}100735$none%s\n%s\n" "$fly" "$fly"
    seed body "changed-$encoding" "${encoding}10073502x0\$\x01%s\n" "$fly"
    seed body "over-the-cap-$encoding" "${encoding}102999$none%s\n%s\n" "$fly" "$fly"
    seed body "raw-$encoding" "${encoding}010222$none%s" "$small"
done
seed body gzip-raw "1000123$none\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00"
seed body zstd-skipped "3000123$none\x50\x2a\x4d\x18\x02\x00\x00\x00ab"
seed body zstd-window "3000123$none\x28\xb5\x2f\xfd\x00\x68\x09\x00\x00x"

# records: the longest line, errors kept.
seed records lines "00%s\n%s\r\n\n{}\n[1]\nnot json\n" "$fly" "$small"
seed records array "00[%s,\n%s,17,{\"content\":\"tests\"}]" "$fly" "$small"
seed records array-broken "00[%s,{\"machine_id\":1" "$small"
seed records objects "00%s%s {\n\"instance\":\n1}\n{\"broken\n%s" "$small" "$fly" "$small"
seed records bom "00\xef\xbb\xbf%s" "$small"
seed records too-long "10%s\n%s\n" "$fly" "$small"
seed records repairs '00{"machine_id":"m","message":"\\ud800 \\ud83d\\ude00 \xff \xe2\x82"}\n'
seed records falsy '02{"fly":{"app":{"instance":0}},"instance":"","machine_id":-1.5e3,"message":{},"log":0e9,"msg":[1,{}]}\n'
seed records repeated '00{"fly":{"app":{"instance":"a"}},"\\u0066ly":null,"machine_id":"m","machine_id":7,"log":{"level":"x"},"log":1}'
seed records deep '00[[[[[[[[{"a":[{"b":[[[[[]]]]]}]}]]]]]]]]'

# shapes: the longest line, the form, three templates; for each record which of them, changes: place (two), removed, put in, bytes.
for form in 0 1 2 3; do
    seed shapes "same-$form" "0${form}01200102000010"
    seed shapes "values-$form" "0${form}0121100z6vfrankf21z!26xyz0y9\"é\"\\\\1"
done
seed shapes broken '00333010000"11a0!2{'
seed shapes taken-turns '0101234001020304050102030'
seed shapes line-too-long '10012011z!0Fxxxxxxxxxxxxxxxxxxxxxx10'

# framing: bytes in a piece.
host='Host: a\r\n'
seed framing length "9POST /logs HTTP/1.1\r\n${host}Content-Length: 5\r\n\r\nhelloPOST / HTTP/1.1\r\n${host}Content-Length: 0\r\n\r\n"
seed framing chunked "2POST /logs HTTP/1.1\r\n${host}Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\n${host}\r\n"
seed framing both "9POST / HTTP/1.1\r\n${host}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
seed framing http10 "9POST / HTTP/1.0\r\n${host}Content-Length: 1\r\n\r\naGET / HTTP/1.0\r\n${host}\r\n"
seed framing expect "9PUT / HTTP/1.1\r\n${host}Expect: 100-continue\r\nContent-Length: 1\r\n\r\na"
seed framing folded "9GET / HTTP/1.1\r\n${host}X: a\r\n b\r\n\r\n"
seed framing upgrade "9GET / HTTP/1.1\r\n${host}Connection: upgrade\r\nUpgrade: h2c\r\n\r\nCONNECT a:1 HTTP/1.1\r\n${host}\r\n"
seed framing blank-lines "0\r\nGET / HTTP/1.1\r\n${host}\r\n\r\n\r\nGET / HTTP/1.1\r\n${host}\r\n"
seed framing lf-only "9GET / HTTP/1.1\nHost: a\n\n"

# spool: for each change the file, the change, place (two), length (two), another file, bytes.
for change in 0 1 2 3 4 5 6 7 8 9; do
    for file in 0 2 4 6; do
        seed spool "change-$change-file-$file" "$file${change}1p0A5abcdefghij"
    done
done
seed spool sound ''
seed spool several '0200A0B0x212p0x50y431a0a2c8000000'

# tokens: a user, a token, whether the header comes twice, the header.
seed tokens bearer 'abcTTTTTTTT0Bearer a-token'
seed tokens twice 'abcTTTTTTTT1Bearer a-token'
seed tokens basic 'abcTTTTTTTT0Basic YWJjOmEtdG9rZW4='
seed tokens basic-other 'abcTTTTTTTT0basic  dTp3d3d3d3d3d3c6 '
seed tokens tab 'abcTTTTTTTT0Bearer\ta-token'
seed tokens none 'abcTTTTTTTT0Digest a-token'

# queries: which part, the text.
seed queries query '0streams=stdout,stderr&since=5m&max_lines=10&after=1-2-3-4'
seed queries query-escaped '0after=a+b%%2Bc%%26%%zz&streams=%%ff&streams=x'
seed queries query-twice '0since=1s&since=1s'
seed queries duration '11d2h30m5s748ms'
seed queries duration-large '1366d1ms'
seed queries id '20-1f-0a-deadbeef'
seed queries id-large '2ffffffffffffffff-1-1-100000000'
seed queries segment '3a%%2Fb+c%%'
seed queries count '318446744073709551616'
