//! `body`: frames from the wire to one contiguous decoded body, by content encoding.
//!
//! ```sh
//! cargo bench --features bench --bench body
//! ```
//!
//! Bodies of 1,000 lines in frames of 16 to 64 KiB, as hyper hands them on. Beside each encoding its bare decoder, which is
//! given the whole body and a buffer of the right size, and a copy of the decoded bytes.

#![allow(clippy::unwrap_used, reason = "a panic here is the bench's failure report")]
#![allow(missing_docs, reason = "criterion's macros write public items")]

mod support;

use std::{hint::black_box, io::Write};

use criterion::{Criterion, criterion_group, criterion_main};
use flate2::{
    Compression, Decompress, FlushDecompress, Status,
    write::{GzEncoder, ZlibEncoder},
};
use fleetdrain::bench::decode;

use support::{Fleet, LINES, Random, throughput};

const FRAME_BYTES_MIN: usize = 16 << 10;
const FRAME_BYTES_MAX: usize = 64 << 10;
/// What senders use unless told otherwise.
const ZSTD_LEVEL: i32 = 3;

/// One content encoding: how a sender makes it, and what its library does with all of it at once.
struct Coding {
    name: &'static str,
    encode: fn(&[u8]) -> Vec<u8>,
    /// From the wire, into a buffer of so many bytes.
    decode: fn(&[u8], usize) -> Vec<u8>,
}

const CODINGS: [Coding; 5] = [
    Coding { name: "identity", encode: <[u8]>::to_vec, decode: |wire, _| wire.to_vec() },
    Coding { name: "gzip", encode: gzip, decode: |wire, length| inflate(Decompress::new_gzip(15), wire, length) },
    Coding { name: "deflate", encode: deflate, decode: |wire, length| inflate(Decompress::new(true), wire, length) },
    Coding {
        name: "zstd",
        encode: |body| zstd::bulk::compress(body, ZSTD_LEVEL).unwrap(),
        decode: |wire, length| zstd::bulk::decompress(wire, length).unwrap(),
    },
    Coding {
        name: "snappy",
        encode: |body| snap::raw::Encoder::new().compress_vec(body).unwrap(),
        decode: |wire, _| snap::raw::Decoder::new().decompress_vec(wire).unwrap(),
    },
];

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn deflate(body: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn inflate(mut stream: Decompress, wire: &[u8], length: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(length);
    let status = stream.decompress_vec(wire, &mut body, FlushDecompress::Finish).unwrap();
    assert_eq!((status, body.len()), (Status::StreamEnd, length));
    body
}

/// Cuts `wire` into the frames of a connection that is read as the bytes come.
fn frames<'a>(mut wire: &'a [u8], random: &mut Random) -> Vec<&'a [u8]> {
    let mut frames = Vec::new();
    while !wire.is_empty() {
        let bytes = FRAME_BYTES_MIN + random.below(FRAME_BYTES_MAX - FRAME_BYTES_MIN + 1);
        let (frame, rest) = wire.split_at(bytes.min(wire.len()));
        frames.push(frame);
        wire = rest;
    }
    frames
}

fn bodies(criterion: &mut Criterion) {
    let mut random = Random::new(1);
    let body = Fleet::new(1_000).body(LINES, &mut random);
    for Coding { name, encode, decode: bare } in CODINGS {
        let wire = encode(&body);
        let frames = frames(&wire, &mut random);
        let drain = || decode(name, frames.iter().copied(), wire.len() as u64);
        assert!(drain() == body && bare(&wire, body.len()) == body, "{name}");
        let mut group = criterion.benchmark_group(format!("body/{name}"));
        group.throughput(throughput(LINES, body.len()));
        group.bench_function("drain", |bench| bench.iter(drain));
        group.bench_function("floor: the bare decoder", |bench| bench.iter(|| bare(black_box(&wire), body.len())));
        group.finish();
    }
    let mut group = criterion.benchmark_group("body");
    group.throughput(throughput(LINES, body.len()));
    let mut copy = vec![0; body.len()];
    group.bench_function("floor: memcpy of the decoded bytes", |bench| {
        bench.iter(|| black_box(&mut copy).copy_from_slice(black_box(&body)));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = support::settings();
    targets = bodies
}
criterion_main!(benches);
