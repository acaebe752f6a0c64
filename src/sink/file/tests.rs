use std::{
    fs::{self, File},
    hash::BuildHasher,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use super::*;
use proptest::prelude::*;
use serde_json::Value;

/// A directory of the test's own, removed behind it.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        let path = crate::scratch::path("files");
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const ALL: [Compression; 3] = [Compression::None, Compression::Zstd, Compression::Gzip];

fn settings(directory: &Path, rest: &str) -> Settings {
    toml::from_str(&format!("directory = {directory:?}\n{rest}")).unwrap()
}

fn packed(directory: &Path, compression: Compression) -> Settings {
    Settings { compression, path: "a.ndjson".to_owned(), ..settings(directory, "") }
}

fn made(settings: &Settings) -> FileSink {
    made_on(settings, Arc::new(Real))
}

fn made_on(settings: &Settings, disk: Arc<dyn Disk>) -> FileSink {
    let made_for = MadeFor { encoding: Encoding::Raw, drain: None };
    settings.make_on(&made_for, disk).unwrap()
}

/// Lines whose messages are numbers, one behind the other.
fn numbered(numbers: std::ops::Range<u64>) -> Parcel {
    of_apps(numbers.map(|number| ("shop", number)))
}

fn of_apps<'a>(lines: impl Iterator<Item = (&'a str, u64)>) -> Parcel {
    let line = |(app, number)| {
        let fly = format!(r#"{{"app":{{"name":"{app}","instance":"m"}},"region":"lax"}}"#);
        format!("{{\"fly\":{fly},\"message\":\"{number}\"}}\n")
    };
    Parcel::of_body(lines.map(line).collect::<String>())
}

/// Every file below a directory, by name, sorted.
fn files(root: &Path) -> Vec<String> {
    fn walk(directory: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(&path, root, found),
                false => found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned()),
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.sort();
    found
}

fn unpacked(path: &Path) -> String {
    let file = File::open(path).unwrap();
    let mut text = String::new();
    // Not by their ending alone: what reads one frame only would miss the others.
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("zst") => zstd::stream::read::Decoder::new(file).unwrap().read_to_string(&mut text),
        Some("gz") => flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text),
        _ => io::BufReader::new(file).read_to_string(&mut text),
    }
    .unwrap();
    text
}

/// The numbers of the lines in all files that are complete. Every line is whole.
fn numbers(root: &Path) -> Vec<u64> {
    let complete = files(root).into_iter().filter(|name| !name.contains(".part"));
    let texts: Vec<_> = complete.map(|name| unpacked(&root.join(name))).collect();
    let mut found = Vec::new();
    for text in &texts {
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            let record: Value = serde_json::from_str(line).unwrap();
            assert!(record["fleetdrain"]["id"].is_string());
            found.push(record["message"].as_str().unwrap().parse().unwrap());
        }
    }
    found.sort_unstable();
    found
}

fn the_part(root: &Path) -> PathBuf {
    let parts: Vec<_> = files(root).into_iter().filter(|name| name.ends_with(".part")).collect();
    assert_eq!(parts.len(), 1, "{parts:?}");
    root.join(&parts[0])
}

#[tokio::test]
async fn files_have_their_names_when_they_are_complete() {
    for compression in ALL {
        let dir = TempDir::new();
        let sink = made(&packed(dir.path(), compression));
        sink.deliver(&numbered(0..3)).await.unwrap();
        sink.deliver(&numbered(3..5)).await.unwrap();
        let name = compression.named("a.ndjson".to_owned());
        assert_eq!(files(dir.path()), [format!(".{name}.part")]);
        sink.close().await.unwrap();
        assert_eq!(files(dir.path()), [name]);
        assert_eq!(numbers(dir.path()), [0, 1, 2, 3, 4]);
    }
}

#[tokio::test]
async fn a_finished_file_is_never_written_over() {
    let dir = TempDir::new();
    for turn in 0..3 {
        let sink = made(&packed(dir.path(), Compression::Gzip));
        sink.deliver(&numbered(turn..turn + 1)).await.unwrap();
        sink.close().await.unwrap();
    }
    assert_eq!(files(dir.path()), ["a-2.ndjson.gz", "a-3.ndjson.gz", "a.ndjson.gz"]);
    assert_eq!(numbers(dir.path()), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn buffers_are_kept_for_the_next_parcel_and_given_back_when_none_comes() {
    let dir = TempDir::new();
    let sink = made(&settings(dir.path(), ""));
    let kept = async || {
        let state = sink.state.lock().await;
        let mut names: Vec<_> = state.spare.keys().cloned().collect();
        names.sort_unstable();
        (names.join(" "), state.spare.values().all(|buffer| buffer.is_empty() && buffer.capacity() > 0))
    };
    let name = |app: &str| sink.target.template.name(&of_apps([(app, 0)].into_iter()).entries().next().unwrap(), "");
    for apps in [&["a", "b"][..], &["b"], &["b", "c"]] {
        sink.deliver(&of_apps(apps.iter().map(|app| (*app, 1)))).await.unwrap();
        let names: Vec<_> = apps.iter().map(|app| name(app)).collect();
        assert_eq!(kept().await, (names.join(" "), true));
        sleep(TICK * SPARE_TICKS / 2).await;
    }
    assert_ne!(kept().await.0, "");
    sleep(TICK * SPARE_TICKS).await;
    assert_eq!(kept().await.0, "");
    // A name that is new takes the buffer of one that has gone.
    let buffer = async || sink.state.lock().await.spare.values().next().map(Vec::as_ptr);
    sink.deliver(&of_apps([("a", 1)].into_iter())).await.unwrap();
    let of_a = buffer().await;
    sink.deliver(&of_apps([("b", 1)].into_iter())).await.unwrap();
    assert_eq!((buffer().await, kept().await.0), (of_a, name("b")));
    // What a burst needs is not kept for a trickle.
    for (lines, is_kept) in [(1000, true), (1, false), (1, true)] {
        sink.deliver(&numbered(0..lines)).await.unwrap();
        assert_eq!(kept().await.0 == name("shop"), is_kept, "{lines}");
    }
}

#[test]
fn a_parcel_fits_into_a_file() {
    for (bytes, parcel) in [("256MiB", 16 << 20), ("10MiB", 5 << 20), ("64KiB", BYTES_MIN), ("1", BYTES_MIN)] {
        let settings = settings(Path::new("/d"), &format!("file_bytes_max = {bytes:?}"));
        assert_eq!(settings.parcel_defaults().bytes, parcel, "{bytes}");
    }
}

#[tokio::test]
async fn lines_are_where_the_template_puts_them() {
    let dir = TempDir::new();
    let sink = made(&settings(dir.path(), "path = \"{app}/{region}/{machine}.x.ndjson\"\ncompression = \"none\""));
    sink.deliver(&of_apps([("b", 1), ("../..", 2), ("b", 3)].into_iter())).await.unwrap();
    sink.close().await.unwrap();
    assert_eq!(files(dir.path()), ["%2E.%2F../lax/m.x.ndjson", "b/lax/m.x.ndjson"]);
    assert_eq!(unpacked(&dir.path().join("b/lax/m.x.ndjson")).lines().count(), 2);
    assert_eq!(numbers(dir.path()), [1, 2, 3]);
}

#[tokio::test]
async fn a_full_file_is_complete_and_the_next_begun() {
    let dir = TempDir::new();
    let sink = made(&Settings { file_bytes_max: BYTES_MIN, ..packed(dir.path(), Compression::None) });
    for turn in 0..10 {
        sink.deliver(&numbered(turn * 100..(turn + 1) * 100)).await.unwrap();
    }
    let complete = files(dir.path()).into_iter().filter(|name| !name.contains(".part")).collect::<Vec<_>>();
    assert!(complete.len() >= 2, "{complete:?}");
    for name in complete {
        assert!(fs::metadata(dir.path().join(name)).unwrap().len() <= BYTES_MIN as u64);
    }
    sink.close().await.unwrap();
    assert_eq!(numbers(dir.path()), (0..1000).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_file_is_complete_by_age_though_no_line_comes() {
    let dir = TempDir::new();
    let sink = made(&Settings { file_age_max: Duration::from_secs(60), ..packed(dir.path(), Compression::None) });
    sink.deliver(&numbered(0..1)).await.unwrap();
    sleep(Duration::from_secs(58)).await;
    assert_eq!(files(dir.path()), [".a.ndjson.part"]);
    sleep(Duration::from_secs(4)).await;
    // Behind the keeper, if it is at work.
    drop(sink.state.lock().await);
    assert_eq!(files(dir.path()), ["a.ndjson"]);
    sink.deliver(&numbered(1..2)).await.unwrap();
    assert_eq!(files(dir.path()), [".a.ndjson.part", "a.ndjson"]);
}

#[tokio::test]
async fn more_files_than_may_be_open_are_written() {
    let dir = TempDir::new();
    let sink = made(&settings(dir.path(), "path = \"{app}.ndjson\"\ncompression = \"none\""));
    let apps: Vec<_> = (0..600).map(|n| format!("app{n}")).collect();
    for turn in 0..2 {
        let lines = apps.iter().zip(600 * turn..).map(|(app, number)| (app.as_str(), number));
        sink.deliver(&of_apps(lines)).await.unwrap();
        let state = sink.state.lock().await;
        assert!(state.directory.as_ref().unwrap().open_files() <= 256);
    }
    sink.close().await.unwrap();
    assert_eq!(files(dir.path()).len(), 600);
    assert_eq!(numbers(dir.path()), (0..1200).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_directory_belongs_to_one_sink() {
    let dir = TempDir::new();
    let (inner, outer) = (dir.path().join("of/one"), dir.path().join("of"));
    let first = made(&packed(&inner, Compression::None));
    first.deliver(&numbered(0..1)).await.unwrap();
    for other in [&inner, &outer, &inner.join("deeper")] {
        let failure = made(&packed(other, Compression::None)).deliver(&numbered(1..2)).await.unwrap_err();
        assert!(matches!(failure, Failure::Denied { .. }), "{failure}");
    }
    first.close().await.unwrap();
    made(&packed(&outer, Compression::None)).deliver(&numbered(1..2)).await.unwrap();
    assert_eq!(numbers(dir.path()), [0]);
}

#[tokio::test]
async fn what_a_crash_left_is_complete_before_the_first_line() {
    let dir = TempDir::new();
    let sink = made(&packed(dir.path(), Compression::None));
    sink.deliver(&numbered(0..3)).await.unwrap();
    // As a process that is killed.
    drop(sink);
    let sink = made(&packed(dir.path(), Compression::None));
    sink.open().await.unwrap();
    assert_eq!(files(dir.path()), ["a.ndjson"]);
    assert_eq!(numbers(dir.path()), [0, 1, 2]);
    let other = made(&packed(dir.path(), Compression::None));
    assert!(matches!(other.open().await.unwrap_err(), Failure::Denied { .. }));
    sink.close().await.unwrap();
    other.deliver(&numbered(3..4)).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_is_told_by_its_key() {
    let dir = TempDir::new();
    let cases = [
        ("path = \"../{app}.ndjson\"", "path"),
        ("path = \"{app}\"", "path"),
        ("path = \"{app}.zst\"\ncompression = \"gzip\"", "path"),
        ("path = \"{id}.ndjson\"", "path"),
        ("file_bytes_max = \"1KiB\"", "file_bytes_max"),
        ("file_age_max = \"1ms\"", "file_age_max"),
    ];
    let made_for = MadeFor { encoding: Encoding::Raw, drain: None };
    for (rest, key) in cases {
        let bad = settings(dir.path(), rest).make(&made_for).err().unwrap();
        assert_eq!(bad.key, key, "{bad}");
    }
    assert_eq!(settings(Path::new("var"), "").make(&made_for).err().unwrap().key, "directory");
    assert_eq!(files(dir.path()), [""; 0]);
}

#[tokio::test]
async fn a_probe_leaves_nothing_and_finds_what_cannot_be_written() {
    let dir = TempDir::new();
    made(&packed(&dir.path().join("a/b"), Compression::None)).probe().await.unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    fs::write(dir.path().join("file"), "").unwrap();
    made(&packed(&dir.path().join("file/b"), Compression::None)).probe().await.unwrap_err();
}

/// A disk that has room for some bytes, and syncs or not. Whatever it really is, it takes whole blocks past the page cache.
#[derive(Debug, Default)]
struct Bad {
    is_direct: AtomicBool,
    /// Bytes written past the page cache.
    direct: AtomicU64,
    /// Takes none after all.
    refuses_direct: AtomicBool,
    room: AtomicU64,
    is_broken: AtomicBool,
    cannot_cut: AtomicBool,
    cannot_name: AtomicBool,
}

impl Disk for Bad {
    fn set_direct(&self, _file: &File, is_direct: bool) -> io::Result<()> {
        self.is_direct.store(is_direct, Relaxed);
        Ok(())
    }

    fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
        if self.is_direct.load(Relaxed) {
            let places = [at, bytes.len() as u64, bytes.as_ptr().addr() as u64];
            if self.refuses_direct.load(Relaxed) || places.iter().any(|place| place % 4096 > 0) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            self.direct.fetch_add(bytes.len() as u64, Relaxed);
        }
        let room = self.room.load(Relaxed).min(bytes.len() as u64);
        if room == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.room.fetch_sub(room, Relaxed);
        FileExt::write_at(file, &bytes[..room as usize], at)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        match self.is_broken.load(Relaxed) {
            true => Err(io::Error::from_raw_os_error(5)),
            false => file.sync_data(),
        }
    }

    fn cut(&self, file: &File, len: u64) -> io::Result<()> {
        match self.cannot_cut.load(Relaxed) {
            true => Err(io::Error::from_raw_os_error(5)),
            false => file.set_len(len),
        }
    }

    fn sync_name(&self, path: &Path) -> io::Result<()> {
        match self.cannot_name.load(Relaxed) {
            true => Err(io::Error::from_raw_os_error(5)),
            false => Real.sync_name(path),
        }
    }
}

#[tokio::test]
async fn a_file_whose_name_could_not_be_synced_is_made_anew() {
    for path in ["a.ndjson", "b/a.ndjson"] {
        let dir = TempDir::new();
        let disk = Arc::new(Bad::default());
        let settings = Settings { path: path.to_owned(), ..packed(dir.path(), Compression::None) };
        let sink = made_on(&settings, Arc::clone(&disk) as _);
        disk.room.store(1 << 20, Relaxed);
        disk.cannot_name.store(true, Relaxed);
        for _ in 0..2 {
            let failure = sink.deliver(&numbered(0..2)).await.unwrap_err();
            assert!(failure.to_string().contains("os error 5"), "{failure}");
        }
        disk.cannot_name.store(false, Relaxed);
        sink.deliver(&numbered(0..2)).await.unwrap();
        sink.close().await.unwrap();
        assert_eq!(numbers(dir.path()), [0, 1]);
    }
}

#[tokio::test]
async fn a_full_disk_leaves_no_torn_line_and_is_survived() {
    for (compression, cannot_cut) in ALL.into_iter().flat_map(|compression| [(compression, false), (compression, true)])
    {
        let dir = TempDir::new();
        let disk = Arc::new(Bad::default());
        let sink = made_on(&packed(dir.path(), compression), Arc::clone(&disk) as _);
        disk.room.store(1 << 20, Relaxed);
        sink.deliver(&numbered(0..2)).await.unwrap();
        let taken = fs::metadata(the_part(dir.path())).unwrap().len();
        disk.room.store(70, Relaxed);
        disk.cannot_cut.store(cannot_cut, Relaxed);
        for _ in 0..2 {
            let failure = sink.deliver(&numbered(2..40)).await.unwrap_err();
            assert!(matches!(failure, Failure::Unavailable { .. }), "{failure}");
            let len = fs::metadata(the_part(dir.path())).unwrap().len();
            assert_eq!(len, taken + if cannot_cut { 70 } else { 0 });
        }
        disk.room.store(1 << 20, Relaxed);
        disk.cannot_cut.store(false, Relaxed);
        sink.deliver(&numbered(2..3)).await.unwrap();
        sink.close().await.unwrap();
        assert_eq!(numbers(dir.path()), [0, 1, 2]);
    }
}

/// As [`numbered`], of lines that no compression makes much shorter.
fn noisy(numbers: std::ops::Range<u64>) -> Parcel {
    let hasher = foldhash::fast::FixedState::default();
    let noise =
        |number: u64| (0..8).map(|part| format!("{:016x}", hasher.hash_one((number, part)))).collect::<String>();
    let line = |number| {
        format!("{{\"fly\":{{\"app\":{{\"instance\":\"m\"}}}},\"message\":\"{number}\",\"n\":\"{}\"}}\n", noise(number))
    };
    Parcel::of_body(numbers.map(line).collect::<String>())
}

/// Numbers of lines: large parcels and small ones, in turn, that end anywhere in a block.
const SIZES: [u64; 6] = [1000, 3, 2500, 1000, 1, 10_000];

#[tokio::test]
async fn large_parcels_go_past_the_page_cache_and_leave_no_zeros() {
    for (compression, refuses_direct) in
        ALL.into_iter().flat_map(|compression| [(compression, false), (compression, true)])
    {
        let dir = TempDir::new();
        let disk = Arc::new(Bad { refuses_direct: refuses_direct.into(), room: (1 << 30).into(), ..Bad::default() });
        let sink = made_on(&packed(dir.path(), compression), Arc::clone(&disk) as _);
        let mut taken = 0;
        for lines in SIZES {
            sink.deliver(&noisy(taken..taken + lines)).await.unwrap();
            taken += lines;
        }
        let (direct, len) = (disk.direct.load(Relaxed), fs::metadata(the_part(dir.path())).unwrap().len());
        assert_eq!(direct > len / 2, !refuses_direct, "{direct} of {len}");
        sink.close().await.unwrap();
        assert!(numbers(dir.path()).into_iter().eq(0..taken));
    }
}

#[tokio::test]
async fn a_crash_or_a_full_disk_behind_a_large_parcel_leaves_its_lines() {
    for (compression, step) in
        ALL.into_iter().flat_map(|compression| [0, 4096, 100_000].map(|step| (compression, step)))
    {
        let dir = TempDir::new();
        let settings = packed(dir.path(), compression);
        let disk = Arc::new(Bad { room: (1 << 30).into(), ..Bad::default() });
        let sink = made_on(&settings, Arc::clone(&disk) as _);
        sink.deliver(&noisy(0..1000)).await.unwrap();
        disk.room.store(step, Relaxed);
        disk.cannot_cut.store(step == 4096, Relaxed);
        sink.deliver(&noisy(1000..3000)).await.unwrap_err();
        disk.room.store(1 << 30, Relaxed);
        disk.cannot_cut.store(false, Relaxed);
        sink.deliver(&noisy(1000..2001)).await.unwrap();
        // As a process that is killed.
        drop(sink);
        let sink = made(&settings);
        sink.deliver(&numbered(2001..2002)).await.unwrap();
        sink.close().await.unwrap();
        assert!(numbers(dir.path()).into_iter().eq(0..2002));
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_leaves_no_more_files_open_than_may_be() {
    let dir = TempDir::new();
    let bounds = Bounds { bytes: 1 << 30, age: Duration::from_secs(60) };
    let bad = Arc::new(Bad { room: (1 << 30).into(), ..Bad::default() });
    let disk: Arc<dyn Disk> = Arc::clone(&bad) as _;
    let mut directory = Directory::open(dir.path(), Compression::None, bounds, &disk).unwrap();
    let lot = |number: u64| {
        let mut lines = vec![b'x'; direct::BYTES_MIN];
        lines.push(b'\n');
        Lot { name: format!("{number}.ndjson"), buffer: lines, start: 0, places: vec![0], id: String::new() }
    };
    for number in 0..300 {
        assert!(directory.write(&mut [lot(number)]).error.is_none());
    }
    let open = directory.open_files();
    tokio::time::advance(bounds.age).await;
    bad.is_broken.store(true, Relaxed);
    directory.complete_due(Instant::now());
    assert_eq!(directory.open_files(), open);
    directory.complete_all().unwrap_err();
    assert_eq!(directory.open_files(), open);
    bad.is_broken.store(false, Relaxed);
    directory.complete_all().unwrap();
    assert_eq!((directory.open_files(), files(dir.path()).len()), (0, 300));
}

#[tokio::test]
async fn nothing_is_written_behind_a_sync_that_failed() {
    let dir = TempDir::new();
    let disk = Arc::new(Bad::default());
    disk.room.store(1 << 20, Relaxed);
    let sink = made_on(&packed(dir.path(), Compression::None), Arc::clone(&disk) as _);
    sink.deliver(&numbered(0..2)).await.unwrap();
    disk.is_broken.store(true, Relaxed);
    let failure = sink.deliver(&numbered(2..4)).await.unwrap_err();
    assert!(matches!(failure, Failure::Unavailable { .. }), "{failure}");
    disk.is_broken.store(false, Relaxed);
    sink.deliver(&numbered(2..4)).await.unwrap();
    assert_eq!(files(dir.path()), [".a.ndjson.part", "a.ndjson"]);
    assert_eq!(numbers(dir.path()), [0, 1]);
    sink.close().await.unwrap();
    assert_eq!(numbers(dir.path()), [0, 1, 2, 3]);
}

#[tokio::test]
async fn of_several_files_those_that_failed_are_told() {
    let dir = TempDir::new();
    let disk = Arc::new(Bad::default());
    let settings = settings(dir.path(), "path = \"{app}.ndjson\"\ncompression = \"none\"");
    let sink = made_on(&settings, Arc::clone(&disk) as _);
    let parcel = of_apps([("a", 0), ("b", 1), ("a", 2), ("b", 3)].into_iter());
    let bytes = split(&parcel, &sink.target.template, sink.target.encoding, false, |_| Vec::new())[0].buffer.len();
    disk.room.store(bytes as u64 + 5, Relaxed);
    match sink.deliver(&parcel).await.unwrap_err() {
        Failure::Partly { again, never, .. } => assert_eq!((again, never), (vec![1, 3], vec![])),
        failure => panic!("{failure}"),
    }
    sink.close().await.unwrap();
    assert_eq!(numbers(dir.path()), [0, 2]);
}

#[tokio::test]
#[ignore = "needs to mount a file system: scripts/test.sh"]
async fn a_disk_that_is_really_full_is_survived() {
    let dir = TempDir::new();
    let mount = |command: &str, args: &[&str]| {
        let status = std::process::Command::new(command).args(args).arg(dir.path()).status().unwrap();
        assert!(status.success());
    };
    mount("mount", &["-t", "tmpfs", "-o", "size=256k", "none"]);
    let sink = made(&packed(dir.path(), Compression::None));
    let mut delivered = 0;
    while sink.deliver(&numbered(delivered..delivered + 100)).await.is_ok() {
        delivered += 100;
        assert!(delivered < 10_000);
    }
    let failure = sink.deliver(&numbered(delivered..delivered + 100)).await.unwrap_err();
    sink.close().await.unwrap();
    let found = numbers(dir.path());
    fs::remove_file(dir.path().join("a.ndjson")).unwrap();
    let again = sink.deliver(&numbered(0..1)).await;
    drop(sink);
    mount("umount", &[]);
    assert!(matches!(failure, Failure::Unavailable { .. }), "{failure}");
    assert_eq!(found, (0..delivered).collect::<Vec<_>>());
    again.unwrap();
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(future)
}

/// What a crash may leave behind what was synced.
#[derive(Clone, Debug)]
enum Left {
    /// Some of the next parcel.
    Some(prop::sample::Index),
    /// All but some, whose blocks were never written.
    Hole(prop::sample::Index),
}

fn left() -> impl Strategy<Value = Left> {
    let index = any::<prop::sample::Index>;
    prop_oneof![index().prop_map(Left::Some), index().prop_map(Left::Hole)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_crash_tears_no_line_and_loses_none_that_was_taken(
        parcels in prop::collection::vec(prop_oneof![4 => 1..30_u64, 1 => 900..1100_u64], 1..4),
        left in left(),
        compression in prop::sample::select(&ALL),
    ) {
        let dir = TempDir::new();
        let settings = packed(dir.path(), compression);
        let taken = run(async {
            let sink = made(&settings);
            let mut taken = 0;
            for lines in parcels {
                sink.deliver(&numbered(taken..taken + lines)).await.unwrap();
                taken += lines;
            }
            // As a process that is killed: nothing is closed but what the kernel closes.
            drop(sink);
            taken
        });
        let unacknowledged = numbered(taken..taken + 20);
        let template = settings.template().unwrap();
        let lots = split(&unacknowledged, &template, Encoding::Raw, false, |_| Vec::new());
        let mut bytes = compression.pack(&lots[0].buffer).unwrap().into_owned();
        let torn = match left {
            Left::Some(at) => { let torn = at.index(bytes.len()); bytes.truncate(torn); torn }
            Left::Hole(at) => { let at = at.index(bytes.len() - 1); bytes[at..].fill(0); at }
        };
        let part = the_part(dir.path());
        let mut content = fs::read(&part).unwrap();
        if compression == Compression::None {
            // Zeros are no lines.
            content.truncate(memchr::memchr(0, &content).unwrap_or(content.len()));
        }
        let file = File::options().write(true).open(&part).unwrap();
        file.write_all_at(&bytes, content.len() as u64).unwrap();
        run(async {
            let sink = made(&settings);
            sink.deliver(&numbered(10_000..10_001)).await.unwrap();
            sink.close().await.unwrap();
        });
        prop_assert_eq!(files(dir.path()).len(), 2);
        let mut found = numbers(dir.path());
        prop_assert_eq!(found.pop(), Some(10_000));
        // All that was taken, once each, and at most whole lines of what was not.
        let expected: Vec<_> = (0..found.len() as u64).collect();
        prop_assert!(found.len() as u64 >= taken && found == expected, "{:?} {} {}", found, taken, torn);
    }

    #[test]
    fn what_was_lost_of_a_file_loses_no_line_before_it(cut in any::<prop::sample::Index>(), compression in prop::sample::select(&ALL)) {
        let dir = TempDir::new();
        let settings = packed(dir.path(), compression);
        run(async {
            let sink = made(&settings);
            for turn in 0..4 {
                sink.deliver(&numbered(turn * 5..turn * 5 + 5)).await.unwrap();
            }
        });
        let part = the_part(dir.path());
        let whole = fs::read(&part).unwrap();
        let len = cut.index(whole.len() + 1);
        File::options().write(true).open(&part).unwrap().set_len(len as u64).unwrap();
        run(async {
            let sink = made(&settings);
            sink.deliver(&numbered(1000..1001)).await.unwrap();
            sink.close().await.unwrap();
        });
        let found = numbers(dir.path());
        let expected: Vec<_> = (0..found.len() as u64 - 1).chain([1000]).collect();
        prop_assert_eq!(&found, &expected);
        if compression == Compression::None {
            prop_assert_eq!(found.len() - 1, memchr::memchr_iter(b'\n', &whole[..len]).count());
        }
        if len == whole.len() {
            prop_assert_eq!(found.len(), 21);
        }
    }
}
