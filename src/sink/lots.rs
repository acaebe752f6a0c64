//! A parcel, lot by lot: the lines that go to one file or object, as they are written there.

use std::{collections::HashMap, hash::BuildHasher};

use hashbrown::HashTable;

#[cfg(any(feature = "s3", feature = "jetstream"))]
use super::Failure;
use super::{Encoding, Parcel, parcel::Lines, template::Template};
use crate::batch::{Clock, EntryView};

/// The lines of a parcel that have one name.
#[derive(Debug)]
pub(super) struct Lot {
    pub(super) name: String,
    /// Encoded, each with its newline, behind what their buffer began with.
    pub(super) buffer: Vec<u8>,
    /// Where they begin there.
    pub(super) start: usize,
    /// Which they are, by their place in [`Parcel::entries`].
    pub(super) places: Vec<usize>,
    /// The same for the same lines, whatever else is in their parcel; empty where nobody asks for it.
    pub(super) id: String,
}

/// Splits a parcel by the names that a template gives its lines, in the order of their first line.
///
/// With `ids` each lot has its own. `begin` gives the buffer for the lines of a name, of which what it holds already stays: one that
/// was used before, for to take fresh memory for each parcel costs half as much as to fill it.
pub(super) fn split(
    parcel: &Parcel,
    template: &Template,
    encoding: Encoding,
    ids: bool,
    mut begin: impl FnMut(&str) -> Vec<u8>,
) -> Vec<Lot> {
    let hasher = foldhash::fast::RandomState::default();
    let mut lots: Vec<Lot> = Vec::new();
    let mut by_name: HashMap<String, usize> = HashMap::new();
    // A line of each kind that was seen, and its lot. Two kinds may have one name: `{app}-{region}` of `a-b`, `c` and of `a`, `b-c`.
    let mut kinds: Vec<(EntryView<'_>, usize)> = Vec::new();
    let mut table: HashTable<usize> = HashTable::new();
    let mut clock = Clock::default();
    // The kind that each machine's last line had, by its group in the batch: mostly that of its next.
    let mut lasts: Vec<usize> = Vec::new();
    // Of each lot its first line and, if they may be several and it is asked for, all of them.
    let differ = ids && template.is_of_lines();
    let mut of_lots: Vec<(EntryView<'_>, Lines)> = Vec::new();
    let mut place = 0;
    for run in parcel.runs() {
        lasts.clear();
        lasts.resize(run.batch.groups.len(), usize::MAX);
        for entry in run.entries() {
            let last = &mut lasts[entry.row.group as usize];
            if !kinds.get(*last).is_some_and(|(first, _)| template.is_same(first, &entry)) {
                let hash = |entry: &EntryView<'_>| template.hash_of(entry, hasher.build_hasher());
                let same = |&kind: &usize| template.is_same(&kinds[kind].0, &entry);
                *last = *table.entry(hash(&entry), same, |&kind| hash(&kinds[kind].0)).or_insert(kinds.len()).get();
            }
            let kind = *last;
            if kind == kinds.len() {
                let name = template.name(&entry, "");
                let lot = *by_name.entry(name.clone()).or_insert(lots.len());
                if lot == lots.len() {
                    let buffer = begin(&name);
                    let start = buffer.len();
                    lots.push(Lot { name, buffer, start, places: Vec::new(), id: String::new() });
                    of_lots.push((entry, Lines::default()));
                }
                kinds.push((entry, lot));
            }
            let lot = kinds[kind].1;
            if differ {
                of_lots[lot].1.add(run.batch.epoch, entry.line().unwrap_or_default());
            }
            let lot = &mut lots[lot];
            encoding.write(&entry, &mut clock, &mut lot.buffer);
            lot.buffer.push(b'\n');
            lot.places.push(place);
            place += 1;
        }
    }
    if ids {
        let is_alone = lots.len() == 1;
        for (lot, (first, lines)) in lots.iter_mut().zip(&of_lots) {
            lot.id = if is_alone { parcel.id().to_owned() } else { lines.id() };
            lot.name = template.name(first, &lot.id);
        }
    }
    lots
}

/// What becomes of a parcel of whose `count` lots some have failed, each with the places of its lines.
#[cfg(any(feature = "s3", feature = "jetstream"))]
pub(super) fn told(mut failed: Vec<(Vec<usize>, Failure)>, count: usize) -> Result<(), Failure> {
    match failed.pop() {
        None => Ok(()),
        Some((_, failure)) if failed.len() + 1 == count => Err(failure),
        Some((mut again, failure)) => {
            again.extend(failed.into_iter().flat_map(|(places, _)| places));
            again.sort_unstable();
            Err(Failure::Partly { again, never: Vec::new(), reason: failure.to_string(), retry_after: None })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_in_the_lot_of_its_name_in_order() {
        let apps = ["a", "b-c", "a", "", "b", "a"];
        let body: String = apps
            .iter()
            .enumerate()
            .map(|(n, app)| {
                let region = if *app == "b" { "c-d" } else { "d" };
                let fly = format!(r#"{{"app":{{"name":"{app}","instance":"m"}},"region":"{region}"}}"#);
                format!("{{\"fly\":{fly},\"message\":\"{n}\"}}\n")
            })
            .collect();
        let parcel = Parcel::of_body(body);
        let template = Template::parse("{app}-{region}", false).unwrap();
        let lots = split(&parcel, &template, Encoding::Entry, false, |_| b"in front".to_vec());
        let found: Vec<_> = lots.iter().map(|lot| (lot.name.as_str(), lot.places.as_slice())).collect();
        assert_eq!(found, [("a-d", &[0, 2, 5][..]), ("b-c-d", &[1, 4]), ("_-d", &[3])]);
        for lot in &lots {
            let lines = std::str::from_utf8(&lot.buffer).unwrap().strip_prefix("in front").unwrap().lines();
            let numbers =
                lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["message"].to_string());
            let expected: Vec<_> = lot.places.iter().map(|place| format!("\"{place}\"")).collect();
            assert_eq!(numbers.collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_lot_has_its_id_whatever_else_is_in_the_parcel() {
        let line = |app: &str| format!("{{\"fly\":{{\"app\":{{\"name\":\"{app}\",\"instance\":\"m\"}}}}}}\n");
        let parcel = Parcel::of_body(["a", "b", "a", "b", "c"].map(line).concat());
        let template = Template::parse("{app}/{id}", true).unwrap();
        let of = |parcel: &Parcel| {
            let lots = split(parcel, &template, Encoding::Raw, true, |_| Vec::new());
            lots.into_iter().map(|lot| (lot.name, lot.id)).collect::<Vec<_>>()
        };
        let all = of(&parcel);
        assert_eq!(all.len(), 3);
        // What is tried again when the others have been taken.
        for (lots, places) in
            [(&all[..1], &[0, 2][..]), (&all[1..2], &[1, 3]), (&all[..2], &[0, 1, 2, 3]), (&all[2..], &[4])]
        {
            let runs = parcel.parts(places).into_iter().map(|(_, run)| run).collect();
            assert_eq!(of(&Parcel::new(runs)), lots);
        }
        assert!(all.iter().all(|(name, id)| name.ends_with(id.as_str())));
    }
}
