//! How much memory this process may use: the limit of its cgroup, or the machine's.

use std::{fs, path::Path};

/// How much memory there is, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineMemory {
    /// Bytes.
    pub bytes: u64,
    /// `cgroup limit` or `memory of this machine`.
    pub from: &'static str,
}

impl MachineMemory {
    /// Asks the operating system; `None` where it does not say (no `/proc`).
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_total(&text));
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let machine = machine.map(|bytes| Self { bytes, from: "memory of this machine" });
        let limit = cgroup_limit(&own, |path| fs::read_to_string(path).ok());
        // A limit above the machine's memory is how cgroup v1 says that there is none.
        let limit = limit.map(|bytes| Self { bytes, from: "cgroup limit" });
        [limit, machine].into_iter().flatten().min_by_key(|memory| memory.bytes)
    }
}

/// `MemTotal` of `/proc/meminfo`, which counts in kB.
fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The tightest limit on the way from this process's cgroup to the root. `own` is `/proc/self/cgroup`.
fn cgroup_limit(own: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let places = own.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        match (parts.next()?, parts.next()?) {
            ("", path) => Some(("/sys/fs/cgroup", path, "memory.max")),
            (names, path) if names.split(',').any(|name| name == "memory") => {
                Some(("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes"))
            }
            _ => None,
        }
    });
    places
        .flat_map(|(mount, path, file)| {
            // In a container the path may be the host's, and only the mount's root exists.
            Path::new(path.trim_start_matches('/')).ancestors().map(move |at| Path::new(mount).join(at).join(file))
        })
        // "max" is no number, and no limit.
        .filter_map(|path| read(&path)?.trim().parse().ok())
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_counts_in_kib() {
        assert_eq!(mem_total("MemTotal:        2048 kB\nMemFree: 1 kB\n"), Some(2 << 20));
        assert_eq!(mem_total("nonsense"), None);
    }

    #[test]
    fn the_tightest_limit_up_to_the_root_holds() {
        let read = |path: &Path| match path.to_str()? {
            "/sys/fs/cgroup/a/b/memory.max" => Some("max\n".to_owned()),
            "/sys/fs/cgroup/a/memory.max" => Some("1000\n".to_owned()),
            "/sys/fs/cgroup/memory.max" => Some("5000\n".to_owned()),
            _ => None,
        };
        assert_eq!(cgroup_limit("0::/a/b\n", read), Some(1000));
        assert_eq!(cgroup_limit("0::/\n", read), Some(5000));
        assert_eq!(cgroup_limit("", read), None);
    }

    #[test]
    fn a_v1_limit_is_found_by_its_controller() {
        let read = |path: &Path| match path.to_str()? {
            "/sys/fs/cgroup/memory/memory.limit_in_bytes" => Some("7000\n".to_owned()),
            _ => None,
        };
        assert_eq!(cgroup_limit("5:cpu:/x\n4:memory,hugetlb:/docker/abc\n", read), Some(7000));
    }
}
