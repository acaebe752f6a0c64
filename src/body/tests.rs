use std::io::Write;

use flate2::{Compression, GzBuilder, write::GzEncoder, write::ZlibEncoder};
use proptest::prelude::*;

use super::*;

const LIMITS: BodyLimits = BodyLimits { wire_bytes_max: 1 << 20, decoded_bytes_max: 4 << 20 };
const ALL: [Encoding; 5] = [Encoding::Identity, Encoding::Gzip, Encoding::Deflate, Encoding::Zstd, Encoding::Snappy];
const AMPLE: usize = usize::MAX;

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zstd_frame(data: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(data, 3).unwrap()
}

fn encode(encoding: Encoding, data: &[u8]) -> Vec<u8> {
    match encoding {
        Encoding::Identity => data.to_vec(),
        Encoding::Gzip => gzip(data),
        Encoding::Deflate => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Encoding::Zstd => zstd_frame(data),
        Encoding::Snappy => snap::raw::Encoder::new().compress_vec(data).unwrap(),
    }
}

/// Log-like lines that compress, but not to nothing.
fn lines(count: u64) -> Vec<u8> {
    let line =
        |n: u64| format!("{{\"machine\":\"{:x}\",\"message\":\"line {n}\"}}\n", n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    (0..count).map(line).collect::<String>().into_bytes()
}

/// Feeds `wire` in pieces of the given sizes, over and over.
fn read_pieces(encoding: Encoding, wire: &[u8], sizes: &[usize], limits: BodyLimits) -> Result<Vec<u8>, BodyError> {
    let mut reader = BodyReader::new(encoding, limits, None);
    let mut sizes = sizes.iter().copied().cycle();
    let mut rest = wire;
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(sizes.next().unwrap().clamp(1, rest.len()));
        assert_eq!(reader.push(piece, AMPLE)?, Progress::Done);
        rest = behind;
    }
    assert_eq!(reader.finish(AMPLE)?, Progress::Done);
    assert_eq!(reader.wire_bytes(), wire.len() as u64);
    let decoded = reader.decoded_bytes();
    let bytes = reader.into_bytes();
    assert_eq!(decoded, bytes.len() as u64);
    Ok(bytes.to_vec())
}

fn read(encoding: Encoding, wire: &[u8]) -> Result<Vec<u8>, BodyError> {
    read_pieces(encoding, wire, &[wire.len().max(1)], LIMITS)
}

/// Feeds `wire` whole, giving just the room that is asked for, and checks that no more is ever held.
fn read_frugally(
    encoding: Encoding,
    wire: &[u8],
    limits: BodyLimits,
    hint: Option<u64>,
) -> Result<(Bytes, usize), BodyError> {
    let mut reader = BodyReader::new(encoding, limits, hint);
    let (mut room, mut rest) = (0, wire);
    loop {
        let progress = if rest.is_empty() { reader.finish(room)? } else { reader.push(rest, room)? };
        assert!(reader.held_bytes() <= room, "{encoding}: holds {} of {room}", reader.held_bytes());
        match progress {
            Progress::Done if rest.is_empty() => break,
            Progress::Done => rest = &[],
            Progress::NeedsRoom { consumed, want } => {
                assert!(want > room, "{encoding}: wants {want} and has {room}");
                (room, rest) = (want, &rest[consumed..]);
            }
        }
    }
    let kept = reader.kept_bytes();
    let bytes = reader.into_bytes();
    assert!(kept >= bytes.len() && kept <= room);
    Ok((bytes, room))
}

#[test]
fn coding_names_are_read_in_any_case() {
    assert_eq!(Encoding::from_header(b" GZip\t"), Some(Encoding::Gzip));
    assert_eq!(Encoding::from_header(b"x-gzip"), Some(Encoding::Gzip));
    for encoding in ALL {
        assert_eq!(Encoding::from_header(encoding.to_string().as_bytes()), Some(encoding));
    }
    for unknown in ["", "br", "gzip, zstd", "x-snappy-framed"] {
        assert_eq!(Encoding::from_header(unknown.as_bytes()), None);
    }
}

#[test]
fn a_body_in_single_bytes_equals_the_whole() {
    let data = lines(300);
    for encoding in ALL {
        let wire = encode(encoding, &data);
        assert_eq!(read(encoding, &wire).unwrap(), data, "{encoding}");
        assert_eq!(read_pieces(encoding, &wire, &[1], LIMITS).unwrap(), data, "{encoding}");
    }
}

proptest! {
    #[test]
    fn any_split_equals_the_whole(
        repeat in 0_u64..60,
        tail in proptest::collection::vec(any::<u8>(), 0..3000),
        sizes in proptest::collection::vec(1_usize..400, 1..12),
    ) {
        let mut data = lines(repeat);
        data.extend_from_slice(&tail);
        for encoding in ALL {
            let wire = encode(encoding, &data);
            prop_assert_eq!(&read_pieces(encoding, &wire, &sizes, LIMITS).unwrap(), &data);
            prop_assert_eq!(&read_frugally(encoding, &wire, LIMITS, None).unwrap().0, &data);
        }
    }

    #[test]
    fn no_bytes_at_all_panic_or_pass_the_cap(wire in proptest::collection::vec(any::<u8>(), 0..600), magic in 0_usize..4) {
        let magics: [&[u8]; 4] = [b"", &[0x1f, 0x8b, 8], &[0x28, 0xb5, 0x2f, 0xfd], &[0x78, 0x9c]];
        let wire = [magics[magic], &wire].concat();
        let limits = BodyLimits { wire_bytes_max: 1000, decoded_bytes_max: 5000 };
        for encoding in ALL {
            if let Ok((bytes, _)) = read_frugally(encoding, &wire, limits, None) {
                prop_assert!(bytes.len() <= 5000);
            }
        }
    }
}

#[test]
fn an_empty_body_is_empty_in_every_encoding() {
    for encoding in ALL {
        assert_eq!(read(encoding, b"").unwrap(), b"", "{encoding}");
        assert_eq!(read(encoding, &encode(encoding, b"")).unwrap(), b"", "{encoding}");
    }
}

#[test]
fn members_and_frames_follow_each_other() {
    let parts: [&[u8]; 3] = [b"one\n", b"", b"three\n"];
    let members: Vec<u8> = parts.iter().flat_map(|part| gzip(part)).collect();
    assert_eq!(read(Encoding::Gzip, &members).unwrap(), b"one\nthree\n");
    let padded = [members.as_slice(), &[0; 700]].concat();
    assert_eq!(read_pieces(Encoding::Gzip, &padded, &[3], LIMITS).unwrap(), b"one\nthree\n");

    let skippable: &[u8] = &[0x5a, 0x2a, 0x4d, 0x18, 5, 0, 0, 0, 1, 2, 3, 4, 5];
    let empty_skippable: &[u8] = &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
    let frames = [skippable, &zstd_frame(b"one\n"), empty_skippable, &zstd_frame(b"three\n"), skippable].concat();
    for size in [1, 7, frames.len()] {
        assert_eq!(read_pieces(Encoding::Zstd, &frames, &[size], LIMITS).unwrap(), b"one\nthree\n");
    }
}

#[test]
fn a_gzip_header_with_every_field_is_read() {
    let mut encoder =
        GzBuilder::new().extra([7; 300]).filename("a.ndjson").comment("hi").write(Vec::new(), Compression::fast());
    encoder.write_all(b"body").unwrap();
    let mut wire = encoder.finish().unwrap();
    // flate2 writes no header checksum: set the flag and put one in.
    let header = 10 + 2 + 300 + "a.ndjson\0hi\0".len();
    wire[3] |= 2;
    let mut crc = flate2::Crc::new();
    crc.update(&wire[..header]);
    let sum = (crc.sum() as u16).to_le_bytes();
    wire.splice(header..header, sum);
    for size in [1, 11, wire.len()] {
        assert_eq!(read_pieces(Encoding::Gzip, &wire, &[size], LIMITS).unwrap(), b"body");
    }
    let twice = [wire.as_slice(), &wire].concat();
    assert_eq!(read(Encoding::Gzip, &twice).unwrap(), b"bodybody");
    wire[header] ^= 1;
    assert!(matches!(read(Encoding::Gzip, &wire), Err(BodyError::Corrupt { .. })));
    wire[3] |= 0x80;
    assert!(matches!(read(Encoding::Gzip, &wire), Err(BodyError::Corrupt { .. })));
}

#[test]
fn a_body_cut_anywhere_is_truncated() {
    let data = lines(40);
    for encoding in [Encoding::Gzip, Encoding::Deflate, Encoding::Zstd, Encoding::Snappy] {
        let wire = encode(encoding, &data);
        for cut in 1..wire.len() {
            let result = read(encoding, &wire[..cut]);
            let fine = match &result {
                Err(BodyError::Truncated { .. }) => true,
                // A snappy block cut short enough is one that claims the impossible, or whose length is broken.
                Err(BodyError::Corrupt { damage: Damage::Expansion { .. }, .. }) => encoding == Encoding::Snappy,
                Err(BodyError::Corrupt { .. }) => encoding == Encoding::Snappy && cut == 1,
                _ => false,
            };
            assert!(fine, "{encoding} cut at {cut} of {}: {result:?}", wire.len());
        }
    }
    let second = [gzip(b"one"), gzip(b"two")[..5].to_vec()].concat();
    assert!(matches!(read(Encoding::Gzip, &second), Err(BodyError::Truncated { .. })));
    let skip = [0x50, 0x2a, 0x4d, 0x18, 9, 0, 0, 0, 1];
    assert!(matches!(read(Encoding::Zstd, &skip), Err(BodyError::Truncated { .. })));
}

#[test]
fn a_body_with_a_flipped_bit_never_passes_for_another() {
    let data = lines(20);
    // Snappy has no checksum, and zstd's encoder writes none unless asked.
    for (encoding, trailer) in [(Encoding::Gzip, 8), (Encoding::Deflate, 4)] {
        let wire = encode(encoding, &data);
        for at in 0..wire.len() {
            let mut flipped = wire.clone();
            flipped[at] ^= 0x10;
            if let Ok(read) = read(encoding, &flipped) {
                // In the header's unimportant fields, or the padding of the last byte before the trailer.
                assert!(read == data && at < wire.len() - trailer, "{encoding} at {at} of {}", wire.len());
            }
        }
    }
}

#[test]
fn what_is_no_such_encoding_is_corrupt() {
    for encoding in [Encoding::Gzip, Encoding::Deflate, Encoding::Zstd] {
        for wire in [b"{\"instance\":\"m\"}\n".as_slice(), &[0xff; 40]] {
            let result = read(encoding, wire);
            assert!(matches!(result, Err(BodyError::Corrupt { .. })), "{encoding}: {result:?}");
        }
    }
    assert!(matches!(read(Encoding::Snappy, &[0xff; 40]), Err(BodyError::Corrupt { .. })));
}

#[test]
fn garbage_behind_the_end_is_corrupt() {
    for encoding in [Encoding::Gzip, Encoding::Deflate, Encoding::Zstd, Encoding::Snappy] {
        let wire = [encode(encoding, b"hello hello hello"), b"garbage".to_vec()].concat();
        for size in [1, wire.len()] {
            let result = read_pieces(encoding, &wire, &[size], LIMITS);
            assert!(matches!(result, Err(BodyError::Corrupt { .. })), "{encoding}: {result:?}");
        }
    }
    let padded = [gzip(b"one"), vec![0; 9], vec![1]].concat();
    assert!(matches!(read(Encoding::Gzip, &padded), Err(BodyError::Corrupt { .. })));
    let padded = [zstd_frame(b"one"), vec![0; 9]].concat();
    assert!(matches!(read(Encoding::Zstd, &padded), Err(BodyError::Corrupt { .. })));
}

#[test]
fn both_caps_are_inclusive() {
    let data = lines(100);
    for encoding in ALL {
        let wire = encode(encoding, &data);
        let exact = BodyLimits { wire_bytes_max: wire.len(), decoded_bytes_max: data.len() };
        assert_eq!(read_pieces(encoding, &wire, &[wire.len()], exact).unwrap(), data, "{encoding}");
        let decoded = BodyLimits { decoded_bytes_max: data.len() - 1, ..exact };
        let result = read_pieces(encoding, &wire, &[100], decoded);
        assert!(matches!(result, Err(BodyError::DecodedTooLarge { bound }) if bound == data.len() - 1), "{encoding}");
        let on_wire = BodyLimits { wire_bytes_max: wire.len() - 1, ..exact };
        let result = read_pieces(encoding, &wire, &[100], on_wire);
        assert!(matches!(result, Err(BodyError::WireTooLarge { bound }) if bound == wire.len() - 1), "{encoding}");
    }
}

#[test]
fn a_bomb_ends_at_the_cap_and_holds_no_more() {
    let limits = BodyLimits { wire_bytes_max: 1 << 20, decoded_bytes_max: 256 << 10 };
    let zeros = vec![0; 32 << 20];
    for encoding in [Encoding::Gzip, Encoding::Deflate, Encoding::Zstd] {
        let wire = encode(encoding, &zeros);
        let mut reader = BodyReader::new(encoding, limits, Some(wire.len() as u64));
        let error = wire.chunks(1000).find_map(|frame| reader.push(frame, AMPLE).err()).unwrap();
        assert!(matches!(error, BodyError::DecodedTooLarge { bound } if bound == 256 << 10), "{encoding}: {error}");
        let state = reader.decoder.held_bytes();
        assert!(reader.held_bytes() <= (256 << 10) + 1 + state, "{encoding} holds {}", reader.held_bytes());
        assert!(state <= 3 << 20);
    }
    let wire = encode(Encoding::Snappy, &zeros);
    let limits = BodyLimits { wire_bytes_max: wire.len(), ..limits };
    let result = read_frugally(Encoding::Snappy, &wire, limits, None);
    assert!(matches!(result, Err(BodyError::DecodedTooLarge { .. })));
}

#[test]
fn a_snappy_block_that_claims_the_impossible_allocates_nothing() {
    // The length 3 MiB as a varint, and one literal.
    let wire = [0x80, 0x80, 0xc0, 0x01, 0x00, b'x'];
    let error = read(Encoding::Snappy, &wire).unwrap_err();
    assert!(matches!(error, BodyError::Corrupt { damage: Damage::Expansion { .. }, .. }), "{error}");
}

#[test]
fn a_zstd_window_over_the_bound_is_refused_before_it_is_allocated() {
    // A frame without content size whose window is 2 GiB, then a raw block of one byte.
    let wire = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x09, 0x00, 0x00, b'x'];
    let mut reader = BodyReader::new(Encoding::Zstd, LIMITS, None);
    let error = reader.push(&wire, AMPLE).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the zstd body is corrupt: a window of 2147483648 bytes is over the bound of 8388608 (RFC 8878, 3.1.1.1.2)"
    );
    assert!(reader.held_bytes() < 4 << 20);
    // The largest window that is allowed is one that `zstd -19` makes.
    let mut wire = wire;
    wire[5] = 13 << 3;
    assert_eq!(read(Encoding::Zstd, &wire).unwrap(), b"x");
    let mut reader = BodyReader::new(Encoding::Zstd, LIMITS, None);
    let Progress::NeedsRoom { want, .. } = reader.push(&wire, 1 << 20).unwrap() else { panic!("8 MiB fitted into 1") };
    assert!(want > 8 << 20);
    assert!(reader.held_bytes() <= 1 << 20);
}

#[test]
fn a_zstd_frame_that_says_it_is_too_large_ends_at_its_header() {
    let wire = ::zstd::bulk::compress(&vec![7; 5 << 20], 3).unwrap();
    let mut reader = BodyReader::new(Encoding::Zstd, LIMITS, None);
    let error = reader.push(&wire[..18], AMPLE).unwrap_err();
    assert!(matches!(error, BodyError::DecodedTooLarge { .. }), "{error}");
    assert_eq!(reader.decoded_bytes(), 0);
}

#[test]
fn a_zstd_frame_that_decodes_to_less_than_it_says_is_corrupt() {
    // One segment of 102 bytes, and an empty last block: zstd itself does not look at that end.
    let wire = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 102, 0x01, 0x00, 0x00];
    let result = read(Encoding::Zstd, &wire);
    assert!(matches!(result, Err(BodyError::Corrupt { damage: Damage::Found(_), .. })), "{result:?}");
    let mut sound = wire;
    sound[5] = 0;
    assert_eq!(read(Encoding::Zstd, &sound).unwrap(), b"");
}

#[test]
fn room_is_asked_for_and_never_passed() {
    let data = lines(20_000);
    for encoding in ALL {
        let wire = encode(encoding, &data);
        let limits = BodyLimits { wire_bytes_max: wire.len(), decoded_bytes_max: data.len() };
        let (bytes, _) = read_frugally(encoding, &wire, limits, None).unwrap();
        assert_eq!(bytes, data, "{encoding}");
    }
}

#[test]
fn a_plain_body_of_announced_length_ends_in_a_buffer_of_that_length() {
    let data = lines(60_000);
    let limits = BodyLimits { wire_bytes_max: 64 << 20, decoded_bytes_max: 64 << 20 };
    let (bytes, room) = read_frugally(Encoding::Identity, &data, limits, Some(data.len() as u64)).unwrap();
    assert_eq!((bytes.len(), room), (data.len(), data.len()));
}

#[test]
fn an_announcement_alone_reserves_next_to_nothing() {
    let limits = BodyLimits { wire_bytes_max: 1 << 30, decoded_bytes_max: 1 << 30 };
    let mut reader = BodyReader::new(Encoding::Identity, limits, Some(1 << 30));
    assert_eq!(reader.held_bytes(), 0);
    assert_eq!(reader.push(b"{", AMPLE).unwrap(), Progress::Done);
    assert_eq!(reader.held_bytes(), FIRST_STEPS[0]);
    assert_eq!(reader.push(&[b' '; 1 << 17], AMPLE).unwrap(), Progress::Done);
    assert!(reader.held_bytes() <= 2 << 17);
}

#[test]
fn a_small_body_in_a_big_buffer_is_copied_to_its_size() {
    let mut reader = BodyReader::new(Encoding::Identity, LIMITS, None);
    assert_eq!(reader.push(b"small", AMPLE).unwrap(), Progress::Done);
    assert_eq!(reader.finish(AMPLE).unwrap(), Progress::Done);
    assert_eq!((reader.held_bytes(), reader.kept_bytes()), (FIRST_STEPS[0], 5));
    assert_eq!(reader.into_bytes(), "small");
}

#[test]
fn state_left_by_a_broken_body_does_not_reach_the_next() {
    let data = lines(50);
    for encoding in [Encoding::Gzip, Encoding::Deflate, Encoding::Zstd] {
        let wire = encode(encoding, &data);
        for cut in [20, wire.len() / 2, wire.len() - 1] {
            assert!(read(encoding, &wire[..cut]).is_err());
            let mut broken = wire.clone();
            broken[cut - 2] ^= 0xff;
            let _ = read(encoding, &broken);
            assert_eq!(read(encoding, &wire).unwrap(), data, "{encoding} after a cut at {cut}");
        }
    }
}

#[test]
fn a_reader_may_move_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<BodyReader>();
}

#[test]
fn what_is_both_too_large_and_corrupt_is_too_large_however_it_comes() {
    let content = lines(40);
    for (encoding, behind) in [(Encoding::Gzip, 8), (Encoding::Deflate, 4)] {
        let mut wire = encode(encoding, &content);
        let sum = wire.len() - behind;
        wire[sum] ^= 1;
        for over in [0, 1, 2, 100] {
            let limits = BodyLimits { decoded_bytes_max: content.len() - over, ..LIMITS };
            for first in 1..=wire.len() {
                let error = read_pieces(encoding, &wire, &[first, wire.len()], limits).unwrap_err();
                let is_too_large = matches!(error, BodyError::DecodedTooLarge { .. });
                assert_eq!(is_too_large, over > 0, "{encoding}, {over} over, in pieces of {first}: {error}");
            }
        }
    }
}
