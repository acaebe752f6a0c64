//! The process as Linux sees it: the `process_*` families that every Prometheus client has.

use std::{fs, io};

use rustix::process::{Resource, getrlimit};

/// What `/proc` counts processor time in: a hundredth of a second, fixed in the ABI of every architecture that Rust has.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads the families of the process: name and value. Empty where there is no `/proc`.
pub(super) fn read() -> Vec<(&'static str, f64)> {
    from_proc().unwrap_or_default()
}

fn from_proc() -> io::Result<Vec<(&'static str, f64)>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let status = fs::read_to_string("/proc/self/status")?;
    let boot_seconds = number_after(&fs::read_to_string("/proc/stat")?, "btime ").unwrap_or_default();
    // Reading the directory opens one descriptor more.
    let open = fs::read_dir("/proc/self/fd")?.count().saturating_sub(1);
    let open_max = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let stat = Stat::parse(&stat).unwrap_or_default();
    let kib = |key| number_after(&status, key).unwrap_or_default() * 1024.0;
    Ok(vec![
        ("process_cpu_seconds_total", (stat.user_ticks + stat.system_ticks) / TICKS_PER_SECOND),
        ("process_resident_memory_bytes", kib("VmRSS:")),
        ("process_virtual_memory_bytes", kib("VmSize:")),
        ("process_open_fds", open as f64),
        ("process_max_fds", open_max as f64),
        ("process_start_time_seconds", boot_seconds + stat.start_ticks / TICKS_PER_SECOND),
        ("process_threads", stat.threads),
    ])
}

/// What we need of `/proc/self/stat`.
#[derive(Debug, Default, PartialEq)]
struct Stat {
    user_ticks: f64,
    system_ticks: f64,
    threads: f64,
    start_ticks: f64,
}

impl Stat {
    fn parse(stat: &str) -> Option<Self> {
        // The second field is the program's name in parentheses, and may hold blanks and parentheses itself.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        // proc(5) numbers the fields from 1; the first one here is the third.
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Self { user_ticks: field(14)?, system_ticks: field(15)?, threads: field(20)?, start_ticks: field(22)? })
    }
}

/// The number behind `key`, which begins a line.
fn number_after(text: &str, key: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(key))?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 150 25 0 0 20 0 9 0 4242 1000 10 18446744073709551615";
        let expected = Stat { user_ticks: 150.0, system_ticks: 25.0, threads: 9.0, start_ticks: 4242.0 };
        assert_eq!(Stat::parse(stat), Some(expected));
        assert_eq!(Stat::parse("garbage"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_memory_descriptors_and_began_in_the_past() {
        let families = read();
        let value = |name| families.iter().find(|(family, _)| *family == name).unwrap().1;
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") >= 3.0 && value("process_open_fds") <= value("process_max_fds"));
        assert!(value("process_threads") >= 1.0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - value("process_start_time_seconds");
        assert!((-2.0..86_400.0).contains(&age), "{age}");
    }
}
