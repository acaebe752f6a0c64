//! Reading one record after the other, in the memory of one.

use super::{Place, ReadError, Record, Seek, log::Log};

/// The records from a place on; see [`super::Spool::records`]. Damaged ones are counted and left out.
#[derive(Debug)]
pub struct Records<'a> {
    log: &'a Log,
    next: Seek,
}

impl<'a> Records<'a> {
    pub(super) fn new(log: &'a Log, from: Seek) -> Self {
        Self { log, next: from }
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let place = self.log.first(self.next).transpose()?;
            if let Some(read) = read(self.log, place, |seq| self.next = Seek::Seq(seq)) {
                return Some(read);
            }
        }
    }
}

/// The records of a machine from a place on; see [`super::Spool::machine_records`]. Damaged ones are counted and left out.
#[derive(Debug)]
pub struct MachineRecords<'a> {
    log: &'a Log,
    machine: &'a str,
    next: u64,
}

impl<'a> MachineRecords<'a> {
    pub(super) fn new(log: &'a Log, machine: &'a str, from: u64) -> Self {
        Self { log, machine, next: from }
    }
}

impl Iterator for MachineRecords<'_> {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let place = self.log.machine_first(self.machine, self.next).transpose()?;
            match read(self.log, place, |seq| self.next = seq) {
                // Another machine with the same hash.
                Some(Ok(record)) if record.machines().all(|(id, _)| id != self.machine) => {}
                Some(read) => return Some(read),
                None => {}
            }
        }
    }
}

/// Reads the record at `place` and says where to go on; `None` if it is damaged or went away.
fn read(log: &Log, place: Result<Place, ReadError>, go_on: impl FnOnce(u64)) -> Option<Result<Record, ReadError>> {
    let place = match place {
        Ok(place) => place,
        Err(error) => {
            // An index that cannot be read says nothing of where the next record is.
            go_on(u64::MAX);
            return Some(Err(error));
        }
    };
    go_on(place.seq() + 1);
    match log.read(&place) {
        Err(ReadError::Gone | ReadError::Damaged) => None,
        read => Some(read),
    }
}
