//! A body's form, decided once, and the records that it holds.

use std::{collections::VecDeque, ops::Range, str};

use memchr::{memchr, memchr_iter, memmem};

use super::{
    Limits, Parsed, Parser, RecordError, RejectReason, RejectedSample, fields::Texts, lex::skip_blanks, scan::Scan,
};
use crate::batch::{Row, Sent, Span};

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Rejections kept as samples.
const SAMPLES_MAX: usize = 100;

/// Bytes kept of each.
const SAMPLE_BYTES_MAX: usize = 1 << 10;

/// What a record is taken to have at least when the rows' table is made: it is then no larger than the body.
const RECORD_BYTES_LEAST: usize = 128;

/// The arena that is kept from one body to the next, at most.
const ARENA_KEPT_BYTES_MAX: usize = 1 << 20;

/// What a span can address. Text that had to be repaired is at most three times as long as what was sent.
const ARENA_BYTES_MAX: usize = 1 << 31;
const REPAIR_GROWTH: usize = 3;

/// Bytes of objects that are read twice at most: so many, or as many as the body has.
pub(super) const REREAD_BYTES_FREE: usize = 256 << 10;

/// Splits `body` into records and turns each into a row.
pub(super) fn parse(parser: &mut Parser, body: &[u8], limits: Limits) -> Parsed {
    parse_by(parser, body, limits, false)
}

/// As [`parse`], of a body that is known to be lines, whatever its first record looks like.
#[cfg(feature = "fly")]
pub(super) fn parse_lines(parser: &mut Parser, body: &[u8], limits: Limits) -> Parsed {
    parse_by(parser, body, limits, true)
}

fn parse_by(parser: &mut Parser, body: &[u8], limits: Limits, are_lines: bool) -> Parsed {
    let arena = std::mem::take(&mut parser.arena);
    let mut reader = Reader {
        parser,
        body,
        limits,
        parsed: Parsed { arena, ..Parsed::default() },
        samples: VecDeque::new(),
        counted: 0,
        line: 1,
    };
    if are_lines {
        reader.lines(0);
    } else {
        reader.read();
    }
    reader.finish()
}

struct Reader<'a> {
    parser: &'a mut Parser,
    body: &'a [u8],
    limits: Limits,
    parsed: Parsed,
    samples: VecDeque<(RecordError, Range<usize>)>,
    /// Up to where line breaks were counted, and the line there.
    counted: usize,
    line: u64,
}

/// A value met while reading an array or objects.
struct Element {
    end: usize,
    whole: bool,
}

impl Reader<'_> {
    fn read(&mut self) {
        let start = if self.body.starts_with(BOM) { BOM.len() } else { 0 };
        let first = skip_blanks(self.body, start);
        match self.body.get(first) {
            None => {}
            Some(b'[') => self.array(first),
            Some(b'{') if self.holds_objects(first) => self.objects(first),
            Some(_) => self.lines(first),
        }
    }

    fn finish(mut self) -> Parsed {
        let body = self.body;
        // It grew in memory that was warm already; what is kept is as large as it must be.
        let mut arena = std::mem::take(&mut self.parsed.arena);
        self.parsed.arena = arena.as_slice().into();
        if arena.capacity() <= ARENA_KEPT_BYTES_MAX {
            arena.clear();
            self.parser.arena = arena;
        }
        if let Some(bytes) = body.len().checked_div(self.parsed.rows.len()) {
            self.parser.record_bytes = bytes;
        }
        self.parsed.samples = self
            .samples
            .into_iter()
            .map(|(error, range)| RejectedSample { error, bytes: body[range].into() })
            .collect();
        self.parsed
    }

    /// Whether the first record closes where the first of lines could not: on a later line, or with something behind it.
    fn holds_objects(&mut self, first: usize) -> bool {
        let Scan { end, whole, .. } = self.look(first);
        if !whole {
            return false;
        }
        let rest = &self.body[end..];
        let rest = &rest[..memchr(b'\n', rest).unwrap_or(rest.len())];
        memchr(b'\n', &self.body[first..end]).is_some() || !trim_end(rest).is_empty()
    }

    fn lines(&mut self, first: usize) {
        let mut start = first;
        while start < self.body.len() {
            start = self.known_line(start).unwrap_or_else(|| self.any_line(start));
        }
    }

    /// Takes the line at `start` if it is one record of a known shape, and gives the start of the next.
    #[inline]
    fn known_line(&mut self, start: usize) -> Option<usize> {
        let (scan, sent) = self.known(self.body.len(), start, true)?;
        let next = line_end(self.body, scan.end)?;
        self.by_scan(start..scan.end, &scan, sent);
        Some(next)
    }

    /// Takes the line at `start`, whatever it is, and gives the start of the next.
    fn any_line(&mut self, start: usize) -> usize {
        let end = memchr(b'\n', &self.body[start..]).map_or(self.body.len(), |at| start + at);
        let begin = skip_blanks(&self.body[..end], start);
        let record = trim_end(&self.body[begin..end]);
        if !record.is_empty() {
            // Where nothing stands before it, it was compared with the shapes already.
            self.one_line(begin..begin + record.len(), begin == start);
        }
        end + 1
    }

    fn one_line(&mut self, range: Range<usize>, is_new: bool) {
        if range.len() > self.limits.line_bytes_max {
            return self.reject(range, RejectReason::LineTooLong);
        }
        let known = if is_new { None } else { self.known(range.end, range.start, true) };
        let (scan, sent) = known.unwrap_or_else(|| self.scan(range.end, range.start));
        self.by_scan(range, &scan, sent);
    }

    fn array(&mut self, open: usize) {
        let mut pos = skip_blanks(self.body, open + 1);
        if self.body.get(pos) == Some(&b']') {
            return self.nothing_behind(pos + 1);
        }
        loop {
            let element = self.element(pos);
            if !element.whole {
                return;
            }
            pos = skip_blanks(self.body, element.end);
            match self.body.get(pos) {
                Some(b',') => pos = skip_blanks(self.body, pos + 1),
                Some(b']') => return self.nothing_behind(pos + 1),
                _ => return self.broken(pos),
            }
        }
    }

    /// An array's end must be the body's.
    fn nothing_behind(&mut self, end: usize) {
        let pos = skip_blanks(self.body, end);
        if pos < self.body.len() {
            self.broken(pos);
        }
    }

    fn objects(&mut self, first: usize) {
        let mut pos = first;
        let mut reread = 0;
        while pos < self.body.len() {
            if self.body[pos] != b'{' {
                self.broken(pos);
                pos = next_line_of_object(self.body, pos);
                continue;
            }
            let element = self.element(pos);
            pos = match element.whole {
                true => skip_blanks(self.body, element.end),
                false => self.resume(pos, element.end, &mut reread),
            };
        }
    }

    /// Where to go on behind an object that began at `start` and broke at `end`: an object that was cut short breaks only
    /// where the next one does not fit into it, and must not take that along.
    ///
    /// `reread` counts the bytes read twice, which are bounded: a hostile body would take the square of itself. What is then not read
    /// again is told as broken, each line of it that begins with an object.
    fn resume(&mut self, start: usize, end: usize, reread: &mut usize) -> usize {
        let mut next = next_line_of_object(self.body, start + 1);
        let again = end.saturating_sub(next);
        if *reread + again <= self.body.len().max(REREAD_BYTES_FREE) {
            *reread += again;
            return next;
        }
        while next < end {
            self.broken(next);
            next = next_line_of_object(self.body, next + 1);
        }
        next
    }

    /// The value at `start`, which may be broken there already.
    fn element(&mut self, start: usize) -> Element {
        let end = self.body.len();
        let (scan, sent) = self.known(end, start, false).unwrap_or_else(|| self.scan(end, start));
        self.by_scan(start..scan.end, &scan, sent);
        Element { end: scan.end, whole: scan.whole }
    }

    /// What stands at `start`, without learning from it: it will be read again.
    fn look(&mut self, start: usize) -> Scan {
        match self.known(self.body.len(), start, false) {
            Some((scan, _)) => scan,
            None => self.parser.scanner.scan(self.body, start, &mut self.parser.found),
        }
    }

    /// The record at `start`, which ends at `end` or before, if its shape is known.
    #[inline]
    fn known(&mut self, end: usize, start: usize, one_line: bool) -> Option<(Scan, Sent)> {
        let Parser { shapes, found, .. } = &mut *self.parser;
        shapes.read(&self.body[..end], start, one_line, found)
    }

    /// What stands at `start` and ends at `end` or before, by the scanner.
    fn scan(&mut self, end: usize, start: usize) -> (Scan, Sent) {
        let body = &self.body[..end];
        let Parser { scanner, shapes, found, .. } = &mut *self.parser;
        let scan = scanner.scan(body, start, found);
        let utf8 = str::from_utf8(&body[start..scan.end]).is_ok();
        if utf8 {
            shapes.learn(body, start, &scan, scanner.holes(), found);
        }
        (scan, Sent::by_utf8(utf8))
    }

    /// Counts the record at `range` after it was read.
    #[inline]
    fn by_scan(&mut self, range: Range<usize>, scan: &Scan, sent: Sent) {
        if let Err(reason) = self.judge(&range, scan, sent) {
            self.reject(range, reason);
        }
    }

    /// Accepts the record, or says why not.
    #[inline]
    fn judge(&mut self, range: &Range<usize>, scan: &Scan, sent: Sent) -> Result<(), RejectReason> {
        if range.len() > self.limits.line_bytes_max || !self.has_room(range) {
            return Err(RejectReason::LineTooLong);
        }
        scan.verdict(range.end)?;
        self.make_room_for_row(range.start);
        let texts = Texts { body: self.body, sent };
        let Parsed { rows, arena, .. } = &mut self.parsed;
        let Parser { found, boot_is_system, .. } = &*self.parser;
        let row = found.row(&texts, raw_span(range), *boot_is_system, arena).ok_or(RejectReason::NoMachineId)?;
        // Written in one go where it will stay.
        rows.push(Row { ordinal: rows.len() as u32, ..row });
        self.parsed.received += 1;
        self.parsed.repaired += u64::from(!sent.is_utf8() || scan.lone_surrogate);
        Ok(())
    }

    /// Whether the record's texts surely fit the arena, even if all of them must be repaired.
    fn has_room(&self, range: &Range<usize>) -> bool {
        self.parsed.arena.len() + REPAIR_GROWTH * range.len() < ARENA_BYTES_MAX
    }

    /// Makes the rows' table larger if it is full, for the record at `start` and those behind it.
    #[inline]
    fn make_room_for_row(&mut self, start: usize) {
        let rows = &mut self.parsed.rows;
        if rows.len() == rows.capacity() {
            // Records of one body, and of bodies that follow each other, are alike: a table that were too small would be copied.
            let mean = start.checked_div(rows.len()).unwrap_or(self.parser.record_bytes);
            let more = (self.body.len() - start) / mean.max(RECORD_BYTES_LEAST);
            rows.reserve_exact((more + more / 16 + 1).max(rows.len()));
        }
    }

    /// The text cannot go on as it does at `pos`: one record that is none.
    fn broken(&mut self, pos: usize) {
        self.reject(pos..pos, RejectReason::MalformedJson);
    }

    fn reject(&mut self, range: Range<usize>, reason: RejectReason) {
        self.parsed.received += 1;
        self.parsed.rejected[reason as usize] += 1;
        let error = RecordError { record: self.parsed.received, line: self.line_of(range.start), reason };
        if self.parsed.errors.len() < self.limits.errors_max {
            self.parsed.errors.push(error);
        }
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        let sample = range.start..self.shown_end(&range, reason).min(range.start + SAMPLE_BYTES_MAX);
        self.samples.push_back((error, sample));
    }

    /// Up to where a rejected record is shown: what is broken does not say where it ends, so to the end of its line.
    fn shown_end(&self, range: &Range<usize>, reason: RejectReason) -> usize {
        if reason != RejectReason::MalformedJson {
            return range.end;
        }
        let rest = &self.body[range.end..self.body.len().min(range.end + SAMPLE_BYTES_MAX)];
        range.end + trim_end(&rest[..memchr(b'\n', rest).unwrap_or(rest.len())]).len()
    }

    /// The line of `pos`, which never lies before an earlier one asked for. The end of the body is on the last line with anything on.
    fn line_of(&mut self, pos: usize) -> u64 {
        let pos = if pos < self.body.len() { pos } else { trim_end(self.body).len() };
        let pos = pos.max(self.counted);
        self.line += memchr_iter(b'\n', &self.body[self.counted..pos]).count() as u64;
        self.counted = pos;
        self.line
    }
}

/// Where the next line begins if nothing but blanks stands between `pos` and the end of its line.
#[inline]
fn line_end(body: &[u8], mut pos: usize) -> Option<usize> {
    loop {
        match body.get(pos) {
            Some(b'\n') | None => return Some(pos + 1),
            Some(b' ' | b'\t' | b'\r') => pos += 1,
            Some(_) => return None,
        }
    }
}

/// The first line from `from` on that begins with `{`, or the end of the body.
fn next_line_of_object(body: &[u8], from: usize) -> usize {
    let before = from.saturating_sub(1);
    memmem::find(&body[before..], b"\n{").map_or(body.len(), |at| before + at + 1)
}

/// `text` without JSON's white space at its end.
fn trim_end(text: &[u8]) -> &[u8] {
    let blank = text.iter().rev().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
    &text[..text.len() - blank]
}

/// `text` without JSON's white space around it.
pub(super) fn trim_blanks(text: &[u8]) -> &[u8] {
    trim_end(&text[skip_blanks(text, 0)..])
}

fn raw_span(range: &Range<usize>) -> Span {
    Span::body(range.start, range.len())
}
