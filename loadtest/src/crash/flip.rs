//! One bit of a stopped spool is flipped: only the body that was hit may be missing, and it must be counted.

use super::drain::{Life, Setup, copy_files, metric};
use super::fleet::Fleet;
use super::ledger::Ledger;
use super::report::Flips;
use super::view::View;
use crate::failure::Failure;
use crate::random::Random;
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tokio::runtime::Runtime;

const CORRUPT: &str = "fleetdrain_spool_corrupt_records_total";

/// What the flips are judged by.
pub(super) struct Whole<'a> {
    pub(super) fleet: Fleet,
    pub(super) ledgers: &'a [Ledger],
    /// What the spool held before.
    pub(super) view: &'a View,
}

/// Flips one bit in a copy of the spool, and starts the drain on it.
pub(super) fn flip_one(
    setup: &Setup,
    dir: &Path,
    whole: &Whole<'_>,
    random: &mut Random,
    runtime: &Runtime,
    flips: &mut Flips,
) -> Result<(), Failure> {
    let spool = setup.spool.as_deref().ok_or_else(|| Failure::usage("--flip needs a spool"))?;
    let copy = dir.join("flipped");
    let _ = std::fs::remove_dir_all(&copy);
    copy_files(spool, &copy).map_err(Failure::io)?;
    let what = flip(&copy, random).map_err(Failure::io)?;
    let setup = Setup { spool: Some(copy.clone()), ..setup.clone() };
    let mut life = Life::start(&setup)?;
    life.ready(&setup, runtime)?;
    let mut view = View::new("flipped", whole.fleet, true);
    super::read_history(&setup, runtime, &mut view)?;
    // The rest is read too: what is damaged is counted when somebody comes upon it.
    let corrupt = metric(&setup, runtime, CORRUPT)?;
    let status = life.end(Signal::SIGTERM)?;
    flips.made += 1;
    judge(whole, &view, corrupt, &what, flips);
    if !status.success() {
        flips.broken.push(format!("{what}: the drain ended with {status}"));
    }
    std::fs::remove_dir_all(&copy).map_err(Failure::io)
}

/// Flips a random bit of a random segment; says which.
fn flip(spool: &Path, random: &mut Random) -> std::io::Result<String> {
    let mut segments: Vec<PathBuf> = std::fs::read_dir(spool)?.flatten().map(|entry| entry.path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    segments.sort();
    if segments.is_empty() {
        return Err(std::io::Error::other(format!("{}: no segments", spool.display())));
    }
    let path = &segments[random.below(segments.len())];
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let (at, bit) = (random.below(file.metadata()?.len() as usize) as u64, random.below(8));
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 1 << bit], at)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(format!("bit {bit} of byte {at} of {name} flipped"))
}

fn judge(whole: &Whole<'_>, view: &View, corrupt: Option<f64>, what: &str, flips: &mut Flips) {
    let (mut missing, mut more, mut bodies) = (0_u64, 0_u64, BTreeSet::new());
    for (sender, record, now, before) in view.differences(whole.view, whole.ledgers) {
        if now > before {
            more += 1;
        } else {
            missing += u64::from(before - now);
            bodies.insert((sender, whole.ledgers[sender].body_of(record)));
        }
    }
    let mut broken = |text: String| flips.broken.push(format!("{what}: {text}"));
    if bodies.len() > 1 {
        broken(format!("{missing} records of {} bodies are missing: {bodies:?}", bodies.len()));
    }
    if more + view.faults.altered > 0 {
        broken(format!(
            "{more} records are there more often, {} altered: {:?}",
            view.faults.altered, view.faults.named
        ));
    }
    match corrupt {
        None => broken(format!("there is no {CORRUPT}")),
        Some(count) if missing > 0 && count < 1.0 => {
            broken(format!("{missing} records are missing, {CORRUPT} is {count}"));
        }
        Some(_) => {}
    }
    flips.lost_a_body += u64::from(missing > 0);
    flips.records_lost += missing;
}
