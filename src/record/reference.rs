//! The contract's section 2 written a second time, to be compared with: plain, slow, to a value tree, and sharing nothing with the
//! rooms that it checks.

use super::{Limits, RecordError, RejectReason, forms::REREAD_BYTES_FREE};

/// An accepted record, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) raw: Vec<u8>,
    pub(super) machine: String,
    pub(super) message: String,
    pub(super) stream: String,
    pub(super) timestamp: String,
    pub(super) app: String,
    pub(super) region: String,
    pub(super) host: String,
    pub(super) level: String,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) entries: Vec<Entry>,
    pub(super) received: u64,
    pub(super) rejected: [u64; 5],
    pub(super) repaired: u64,
    pub(super) errors: Vec<RecordError>,
}

#[derive(Debug, Clone)]
enum Json {
    Null,
    Bool(bool),
    Number,
    Text(String),
    Array(Vec<Node>),
    Object(Vec<(String, Node)>),
}

#[derive(Debug, Clone)]
struct Node {
    json: Json,
    source: String,
}

enum Token {
    Punctuation(u8),
    Scalar(Json),
}

/// What was read from one place: a tree, or where it breaks.
struct Reading {
    tree: Result<Node, ()>,
    /// After the value, or where it breaks.
    end: usize,
    deepest: usize,
    repaired: bool,
}

enum Frame {
    Array(usize, Vec<Node>),
    Object(usize, Vec<(String, Node)>, String),
}

#[derive(Clone, Copy, PartialEq)]
enum Want {
    Value,
    ValueOrClose,
    Key,
    KeyOrClose,
    Colon,
    CommaOrClose,
}

struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
    repaired: bool,
}

type Break = usize;

impl Tokens<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.text.get(at).copied()
    }

    fn blanks(&mut self) {
        while let Some(b' ' | 9 | 10 | 13) = self.byte(self.at) {
            self.at += 1;
        }
    }

    fn next(&mut self) -> Result<Token, Break> {
        let start = self.at;
        match self.byte(start) {
            Some(mark @ (b'{' | b'}' | b'[' | b']' | b':' | b',')) => {
                self.at += 1;
                Ok(Token::Punctuation(mark))
            }
            Some(b'"') => Ok(Token::Scalar(Json::Text(self.text_value()?))),
            Some(b'n') => self.word("null", Json::Null),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(start),
        }
    }

    fn word(&mut self, word: &str, json: Json) -> Result<Token, Break> {
        for letter in word.bytes() {
            if self.byte(self.at) != Some(letter) {
                return Err(self.at);
            }
            self.at += 1;
        }
        Ok(Token::Scalar(json))
    }

    /// As an automaton: sign, zero, integer, point, fraction, e, sign of e, exponent.
    fn number(&mut self) -> Result<Token, Break> {
        let mut state = 's';
        loop {
            let class = match self.byte(self.at) {
                Some(b'0') => '0',
                Some(b'1'..=b'9') => '9',
                Some(b'.') => '.',
                Some(b'e' | b'E') => 'e',
                Some(b'-') => '-',
                Some(b'+') => '+',
                _ => ' ',
            };
            state = match (state, class) {
                ('s', '-') => 'm',
                ('s' | 'm', '0') => 'z',
                ('s' | 'm', '9') | ('i', '0' | '9') => 'i',
                ('z' | 'i', '.') => 'p',
                ('p' | 'f', '0' | '9') => 'f',
                ('z' | 'i' | 'f', 'e') => 'e',
                ('e', '-' | '+') => 'g',
                ('e' | 'g' | 'x', '0' | '9') => 'x',
                ('z' | 'i' | 'f' | 'x', _) => return Ok(Token::Scalar(Json::Number)),
                _ => return Err(self.at),
            };
            self.at += 1;
        }
    }

    fn text_value(&mut self) -> Result<String, Break> {
        let (mut out, mut bytes, mut units) = (String::new(), Vec::new(), Vec::new());
        self.at += 1;
        loop {
            let byte = self.byte(self.at).ok_or(self.at)?;
            if byte == b'\\' && self.byte(self.at + 1) == Some(b'u') {
                self.flush_bytes(&mut out, &mut bytes);
                let mut unit = 0;
                for at in self.at + 2..self.at + 6 {
                    let digit = self.byte(at).and_then(|byte| (byte as char).to_digit(16)).ok_or(at)?;
                    unit = unit * 16 + digit as u16;
                }
                units.push(unit);
                self.at += 6;
                continue;
            }
            self.flush_units(&mut out, &mut units);
            match byte {
                b'"' => break,
                0..=31 => return Err(self.at),
                b'\\' => {
                    let letter = self.byte(self.at + 1).ok_or(self.at + 1)?;
                    let names = *b"\"\\/bfnrt";
                    let place = names.iter().position(|&name| name == letter).ok_or(self.at + 1)?;
                    bytes.push(b"\"\\/\x08\x0c\n\r\t"[place]);
                    self.at += 2;
                }
                other => {
                    bytes.push(other);
                    self.at += 1;
                }
            }
        }
        self.flush_bytes(&mut out, &mut bytes);
        self.at += 1;
        Ok(out)
    }

    fn flush_bytes(&mut self, out: &mut String, bytes: &mut Vec<u8>) {
        self.repaired |= std::str::from_utf8(bytes).is_err();
        out.push_str(&String::from_utf8_lossy(bytes));
        bytes.clear();
    }

    fn flush_units(&mut self, out: &mut String, units: &mut Vec<u16>) {
        for char in char::decode_utf16(units.drain(..)) {
            self.repaired |= char.is_err();
            out.push(char.unwrap_or('\u{FFFD}'));
        }
    }
}

/// Whether what is wanted may begin with this byte, for else the break is here and not inside what begins here.
fn may_begin(want: Want, byte: Option<u8>) -> bool {
    let begins = match want {
        Want::Value => "{[\"-0123456789tfn",
        Want::ValueOrClose => "{[\"-0123456789tfn]",
        Want::Key => "\"",
        Want::KeyOrClose => "\"}",
        Want::Colon => ":",
        Want::CommaOrClose => ",]}",
    };
    byte.is_some_and(|byte| begins.as_bytes().contains(&byte))
}

fn read(text: &[u8], start: usize) -> Reading {
    let mut tokens = Tokens { text, at: start, repaired: false };
    let mut stack: Vec<Frame> = Vec::new();
    let mut want = Want::Value;
    let mut deepest = 0;
    let tree = loop {
        if !(stack.is_empty() && want == Want::Value) {
            tokens.blanks();
        }
        let at = tokens.at;
        if !may_begin(want, tokens.byte(at)) {
            break Err(());
        }
        let Ok(token) = tokens.next().map_err(|broken| tokens.at = broken) else { break Err(()) };
        let mut done = None;
        match (want, token) {
            (Want::Value | Want::ValueOrClose, Token::Punctuation(b'[')) => {
                stack.push(Frame::Array(at, vec![]));
                want = Want::ValueOrClose;
            }
            (Want::Value | Want::ValueOrClose, Token::Punctuation(b'{')) => {
                stack.push(Frame::Object(at, vec![], String::new()));
                want = Want::KeyOrClose;
            }
            (Want::Value | Want::ValueOrClose, Token::Scalar(json)) => done = Some((at, json)),
            (Want::Key | Want::KeyOrClose, Token::Scalar(Json::Text(name))) => {
                let Some(Frame::Object(_, _, key)) = stack.last_mut() else { unreachable!() };
                *key = name;
                want = Want::Colon;
            }
            (Want::Colon, Token::Punctuation(b':')) => want = Want::Value,
            (Want::CommaOrClose, Token::Punctuation(b',')) => {
                want = if matches!(stack.last(), Some(Frame::Object(..))) { Want::Key } else { Want::Value };
            }
            (Want::CommaOrClose | Want::ValueOrClose, Token::Punctuation(b']'))
                if matches!(stack.last(), Some(Frame::Array(..))) =>
            {
                let Some(Frame::Array(at, items)) = stack.pop() else { unreachable!() };
                done = Some((at, Json::Array(items)));
            }
            (Want::CommaOrClose | Want::KeyOrClose, Token::Punctuation(b'}'))
                if matches!(stack.last(), Some(Frame::Object(..))) =>
            {
                let Some(Frame::Object(at, items, _)) = stack.pop() else { unreachable!() };
                done = Some((at, Json::Object(items)));
            }
            _ => {
                tokens.at = at;
                break Err(());
            }
        }
        deepest = deepest.max(stack.len());
        if let Some((at, json)) = done {
            // A tree that is too deep to be a record is not built: its own drop would recurse.
            let json = if stack.len() >= 1000 { Json::Null } else { json };
            let source = match json {
                Json::Text(_) | Json::Null => String::new(),
                _ => String::from_utf8_lossy(&text[at..tokens.at]).into_owned(),
            };
            let node = Node { json, source };
            want = Want::CommaOrClose;
            match stack.last_mut() {
                None => break Ok(node),
                Some(Frame::Array(_, items)) => items.push(node),
                Some(Frame::Object(_, items, key)) => items.push((std::mem::take(key), node)),
            }
        }
    };
    Reading { tree, end: tokens.at, deepest, repaired: tokens.repaired }
}

/// What `path` leads to; of a repeated key the last.
fn at<'a>(node: &'a Node, path: &str) -> Option<&'a Node> {
    let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
    let Json::Object(items) = &node.json else { return None };
    let (_, value) = items.iter().rev().find(|(name, _)| name == key)?;
    rest.map_or(Some(value), |rest| at(value, rest))
}

/// The text of the first path whose value is truthy and of one of the `types`: string, number, true, object or array.
fn pick(record: &Node, paths: &[(&str, &str)], bytes_max: usize) -> String {
    for (path, types) in paths {
        let Some(node) = at(record, path) else { continue };
        let (sort, text) = match &node.json {
            Json::Null | Json::Bool(false) => continue,
            Json::Text(text) => ('s', text),
            Json::Bool(true) => ('t', &node.source),
            Json::Number => {
                let mantissa = node.source.to_lowercase();
                let mantissa = mantissa.split('e').next().unwrap();
                if mantissa.chars().all(|digit| "-0.".contains(digit)) {
                    continue;
                }
                ('n', &node.source)
            }
            Json::Array(items) if items.is_empty() => continue,
            Json::Object(items) if items.is_empty() => continue,
            Json::Array(_) | Json::Object(_) => ('c', &node.source),
        };
        if types.contains(sort) && !text.is_empty() && text.len() <= bytes_max {
            return text.clone();
        }
    }
    String::new()
}

fn entry(record: &Node, raw: &[u8]) -> Option<Entry> {
    let any = usize::MAX;
    let ids = [("fly.app.instance", "sn"), ("fly.machine.id", "sn"), ("instance", "sn"), ("machine_id", "sn")];
    let machine = pick(record, &ids, 128);
    let mut stream = pick(record, &[("stream", "s")], any);
    if stream.is_empty() {
        let source = pick(record, &[("source", "s")], any);
        let provider = pick(record, &[("event.provider", "s")], any);
        let platform = ["fly", "proxy", "machine"].contains(&&*source) || !["", "app"].contains(&&*provider);
        stream = (if platform { "system" } else { "stdout" }).to_owned();
    }
    (!machine.is_empty()).then(|| Entry {
        raw: raw.to_vec(),
        machine,
        message: pick(record, &[("message", "sntc"), ("log", "snt"), ("msg", "snt")], any),
        stream,
        timestamp: pick(record, &[("timestamp", "sn"), ("time", "sn"), ("ts", "sn"), ("dt", "sn")], any),
        app: pick(record, &[("fly.app.name", "s")], any),
        region: pick(record, &[("fly.region", "s")], any),
        host: pick(record, &[("host", "s")], any),
        level: pick(record, &[("log.level", "s"), ("level", "s")], any),
    })
}

struct Account<'a> {
    body: &'a [u8],
    limits: Limits,
    expected: Expected,
}

impl Account<'_> {
    fn reject(&mut self, at: usize, reason: RejectReason) {
        self.expected.received += 1;
        let index = RejectReason::ALL.iter().position(|&other| other == reason).unwrap();
        self.expected.rejected[index] += 1;
        let mut at = at;
        if at >= self.body.len() {
            let blank = |byte: &u8| b" \t\r\n".contains(byte);
            at = self.body.iter().rposition(|byte| !blank(byte)).unwrap_or(0);
        }
        let line = 1 + self.body[..at].iter().filter(|&&byte| byte == b'\n').count() as u64;
        if self.expected.errors.len() < self.limits.errors_max {
            self.expected.errors.push(RecordError { record: self.expected.received, line, reason });
        }
    }

    /// Counts the record at `start`, read as `reading`, which should end at `end`.
    fn record(&mut self, start: usize, end: usize, reading: Reading) {
        if end - start > self.limits.line_bytes_max {
            return self.reject(start, RejectReason::LineTooLong);
        }
        if reading.deepest > 1000 {
            return self.reject(start, RejectReason::TooDeep);
        }
        let Ok(tree) = reading.tree else { return self.reject(start, RejectReason::MalformedJson) };
        if reading.end != end {
            return self.reject(start, RejectReason::MalformedJson);
        }
        if !matches!(tree.json, Json::Object(_)) {
            return self.reject(start, RejectReason::NotAnObject);
        }
        match entry(&tree, &self.body[start..end]) {
            None => self.reject(start, RejectReason::NoMachineId),
            Some(entry) => {
                self.expected.received += 1;
                self.expected.repaired += u64::from(reading.repaired);
                self.expected.entries.push(entry);
            }
        }
    }

    fn blanks(&self, mut at: usize) -> usize {
        while at < self.body.len() && b" \t\r\n".contains(&self.body[at]) {
            at += 1;
        }
        at
    }

    fn array(&mut self, open: usize) {
        let mut at = self.blanks(open + 1);
        if self.body.get(at) != Some(&b']') {
            loop {
                let reading = read(self.body, at);
                let (end, whole) = (reading.end, reading.tree.is_ok());
                self.record(at, end, reading);
                if !whole {
                    return;
                }
                at = self.blanks(end);
                match self.body.get(at) {
                    Some(b',') => at = self.blanks(at + 1),
                    Some(b']') => break,
                    _ => return self.reject(at, RejectReason::MalformedJson),
                }
            }
        }
        let behind = self.blanks(at + 1);
        if behind < self.body.len() {
            self.reject(behind, RejectReason::MalformedJson);
        }
    }

    fn objects(&mut self, first: usize) {
        let mut at = first;
        let mut read_twice = 0;
        while at < self.body.len() {
            let begins = |&at: &usize| self.body[at] == b'{' && self.body[at - 1] == b'\n';
            let next = |from: usize| (from..self.body.len()).find(begins).unwrap_or(self.body.len());
            if self.body[at] != b'{' {
                let resume = next(at);
                self.reject(at, RejectReason::MalformedJson);
                at = resume;
                continue;
            }
            let reading = read(self.body, at);
            let (end, whole) = (reading.end, reading.tree.is_ok());
            let near = next(at + 1);
            let lines: Vec<usize> = (near..end).filter(begins).collect();
            let behind = next(end);
            self.record(at, end, reading);
            if whole {
                at = self.blanks(end);
            } else if near >= end {
                at = near;
            } else if read_twice + (end - near) <= self.body.len().max(REREAD_BYTES_FREE) {
                read_twice += end - near;
                at = near;
            } else {
                lines.into_iter().for_each(|line| self.reject(line, RejectReason::MalformedJson));
                at = behind;
            }
        }
    }

    fn lines(&mut self, from: usize) {
        let mut start = from;
        for line in self.body[from..].split(|&byte| byte == b'\n') {
            let left = line.iter().take_while(|byte| b" \t\r".contains(byte)).count();
            if left < line.len() {
                let right = line.iter().rev().take_while(|byte| b" \t\r".contains(byte)).count();
                let end = start + line.len() - right;
                let reading = read(&self.body[..end], start + left);
                self.record(start + left, end, reading);
            }
            start += line.len() + 1;
        }
    }
}

pub(super) fn parse(body: &[u8], limits: Limits) -> Expected {
    let mut account = Account { body, limits, expected: Expected::default() };
    let start = if body.starts_with("\u{FEFF}".as_bytes()) { 3 } else { 0 };
    let first = account.blanks(start);
    if first == body.len() {
        return account.expected;
    }
    if body[first] == b'[' {
        account.array(first);
        return account.expected;
    }
    let reading = read(body, first);
    let line_end = body[first..].iter().position(|&byte| byte == b'\n').map_or(body.len(), |at| first + at);
    let behind = |end: usize| end > line_end || body[end..line_end].iter().any(|byte| !b" \t\r".contains(byte));
    if body[first] == b'{' && reading.tree.is_ok() && behind(reading.end) {
        account.objects(first);
    } else {
        account.lines(first);
    }
    account.expected
}
