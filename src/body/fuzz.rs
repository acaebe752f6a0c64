//! Any bytes in any encoding, in any pieces.

use std::io::{BufReader, Read as _, Write as _};

use flate2::{
    Compression,
    read::{MultiGzDecoder, ZlibDecoder},
    write::{GzEncoder, ZlibEncoder},
};

use super::{BodyError, BodyLimits, BodyReader, Encoding, Progress};
use crate::fuzzing::Choices;

const ALL: [Encoding; 5] = [Encoding::Identity, Encoding::Gzip, Encoding::Deflate, Encoding::Zstd, Encoding::Snappy];

/// What a reader may hold beside its buffer: the largest is a zstd context with a window of 8 MiB.
const STATE_BYTES_MAX: usize = 10 << 20;

/// What becomes of a body does not depend on how it is split, on the room that its reader is given at a time, or on the length that
/// was announced; what is decoded is what the encoding's own library decodes; caps hold, as does the room that was given.
pub(crate) fn body(data: &[u8]) {
    let mut choices = Choices(data);
    let encoding = choices.one_of(&ALL);
    let is_plain = choices.below(2) == 0;
    let limits = BodyLimits {
        wire_bytes_max: choices.one_of(&[1 << 20, 200]),
        decoded_bytes_max: choices.one_of(&[1 << 20, 1 << 16, 100]),
    };
    let sizes = [choices.below(200), choices.below(20), choices.below(5)].map(|size| size + 1);
    let edits = [0; 2].map(|_| (choices.below(1 << 16), choices.byte()));
    let wire = wire(encoding, is_plain, edits, choices.0);

    let whole = read(encoding, &wire, &[wire.len().max(1)], limits, usize::MAX, None);
    let pieces = read(encoding, &wire, &sizes, limits, usize::MAX, Some(wire.len() as u64));
    let frugal = read(encoding, &wire, &sizes, limits, 0, None);
    let single = read(encoding, &wire, &[1], limits, 0, Some(u64::MAX));
    for other in [&pieces, &frugal, &single] {
        assert_alike(&whole, other, wire.len() > limits.wire_bytes_max);
    }
    if let Ok(bytes) = &whole {
        assert!(wire.len() <= limits.wire_bytes_max && bytes.len() <= limits.decoded_bytes_max);
        assert!(*bytes == by_the_library(encoding, &wire), "{encoding}: another than the library's {bytes:?}");
    }
}

type Outcome = Result<Vec<u8>, BodyError>;

/// The bytes as they are, or encoded and then changed in two places where a change is not 0.
fn wire(encoding: Encoding, is_plain: bool, edits: [(usize, u8); 2], data: &[u8]) -> Vec<u8> {
    if is_plain {
        return data.to_vec();
    }
    let mut wire = encode(encoding, data);
    for (at, change) in edits {
        if let Some(at) = at.checked_rem(wire.len()) {
            wire[at] ^= change;
        }
    }
    wire
}

fn encode(encoding: Encoding, data: &[u8]) -> Vec<u8> {
    let fits = "memory takes it";
    match encoding {
        Encoding::Identity => data.to_vec(),
        Encoding::Gzip => {
            // Two members, as whoever appends to a file makes them.
            let (front, back) = data.split_at(data.len() / 2);
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(front).expect(fits);
            let mut encoder = GzEncoder::new(encoder.finish().expect(fits), Compression::fast());
            encoder.write_all(back).expect(fits);
            encoder.finish().expect(fits)
        }
        Encoding::Deflate => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(data).expect(fits);
            encoder.finish().expect(fits)
        }
        Encoding::Zstd => zstd::bulk::compress(data, 1).expect(fits),
        Encoding::Snappy => snap::raw::Encoder::new().compress_vec(data).expect(fits),
    }
}

/// What the encoding's own library decodes of bytes that are known to be sound.
fn by_the_library(encoding: Encoding, wire: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    // A body of no bytes is empty in every encoding.
    if wire.is_empty() {
        return out;
    }
    match encoding {
        Encoding::Identity => out.extend_from_slice(wire),
        // It takes the zeros that may stand behind the last member for a broken one, and has then said all there is.
        Encoding::Gzip => drop(MultiGzDecoder::new(wire).read_to_end(&mut out)),
        Encoding::Deflate => drop(ZlibDecoder::new(wire).read_to_end(&mut out)),
        // In pieces, as we have it: in one it refuses an empty block that is called compressed, and decodes to nothing either way.
        Encoding::Zstd => {
            let pieces = BufReader::with_capacity(1, wire);
            let read = zstd::stream::read::Decoder::with_buffer(pieces).and_then(|mut it| it.read_to_end(&mut out));
            read.expect("zstd reads what we read");
        }
        Encoding::Snappy => out = snap::raw::Decoder::new().decompress_vec(wire).expect("snappy reads what we read"),
    }
    out
}

/// Reads `wire` in pieces of these sizes, over and over, and gives more room only when it is asked for.
fn read(
    encoding: Encoding,
    wire: &[u8],
    sizes: &[usize],
    limits: BodyLimits,
    mut room: usize,
    length: Option<u64>,
) -> Outcome {
    let mut reader = BodyReader::new(encoding, limits, length);
    let mut sizes = sizes.iter().copied().cycle();
    let mut rest = wire;
    loop {
        let (mut piece, behind) = rest.split_at(sizes.next().unwrap_or(1).min(rest.len()));
        let is_end = piece.is_empty();
        loop {
            let progress = if is_end { reader.finish(room) } else { reader.push(piece, room) };
            let held = reader.held_bytes();
            assert!(held <= room && held <= limits.decoded_bytes_max.max(limits.wire_bytes_max) + STATE_BYTES_MAX);
            match progress? {
                Progress::Done => break,
                Progress::NeedsRoom { consumed, want } => {
                    assert!(want > room, "{encoding}: wants {want} and has {room}");
                    (room, piece) = (want, &piece[consumed..]);
                }
            }
        }
        if is_end {
            break;
        }
        rest = behind;
    }
    assert_eq!(reader.wire_bytes(), wire.len() as u64);
    let (decoded, kept) = (reader.decoded_bytes(), reader.kept_bytes());
    let bytes = reader.into_bytes();
    assert!(decoded == bytes.len() as u64 && kept >= bytes.len() && kept <= room);
    Ok(bytes.to_vec())
}

/// A body that is over its cap on the wire may be found corrupt first: not all of it is looked at.
fn assert_alike(one: &Outcome, other: &Outcome, is_over: bool) {
    match (one, other) {
        (Ok(one), Ok(other)) => assert!(one == other, "{one:?} {other:?}"),
        (Err(one), Err(other)) => assert!(is_over || verdict(one) == verdict(other), "{one} / {other}"),
        _ => panic!("{one:?} / {other:?}"),
    }
}

/// What is wrong; of a corrupt body only that it is: the libraries' words depend on where they stopped before.
fn verdict(error: &BodyError) -> String {
    match error {
        BodyError::Corrupt { encoding, .. } => format!("corrupt {encoding}"),
        other => other.to_string(),
    }
}
