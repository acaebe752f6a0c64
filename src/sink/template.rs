//! Names of files and objects, made of what is known of a line: `{app}/{date}.ndjson`.
//!
//! What a record says is another's text: each value becomes one harmless piece of a name, whatever it holds. So a name has
//! exactly the `/` that its template has, and none of its components is empty, `.` or `..`.

use std::{
    fmt::Write as _,
    hash::{Hash, Hasher},
};

use jiff::{Timestamp, tz::Offset};
use ring::digest::{SHA256, digest};

use crate::batch::EntryView;

/// The longest value that stands in a name as it is, in bytes; of a longer one its beginning and a hash.
const VALUE_MAX: usize = 64;

/// How much of a longer value is kept: with `~` and the hash as long as [`VALUE_MAX`].
const KEPT: usize = VALUE_MAX - 1 - 2 * HASH;

/// Bytes of the hash that stands for the rest.
const HASH: usize = 8;

/// The longest component: file systems take 255 bytes, and a number and an ending come after it.
const COMPONENT_MAX: usize = 200;

/// The longest name as a whole: stores take keys of 1,024 bytes.
const NAME_MAX: usize = 900;

/// The letters in a value that stand for themselves, beside ASCII letters and digits.
fn is_plain(byte: u8, first: bool) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && !first)
}

/// What a name is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    pieces: Vec<Piece>,
    // Which fields it has: asked for each line.
    app: bool,
    machine: bool,
    region: bool,
    time: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(Field),
}

/// What stands between braces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    App,
    Machine,
    Region,
    /// The day on which the line was received, UTC.
    Date,
    /// And the hour.
    Hour,
    /// The parcel's: the same for the same lines.
    Id,
}

impl Field {
    const ALL: [(&str, Self); 6] = [
        ("app", Self::App),
        ("machine", Self::Machine),
        ("region", Self::Region),
        ("date", Self::Date),
        ("hour", Self::Hour),
        ("id", Self::Id),
    ];

    fn bytes_max(self) -> usize {
        match self {
            Self::App | Self::Machine | Self::Region => VALUE_MAX,
            Self::Date => "2026-01-31".len(),
            Self::Hour => "23".len(),
            // See `Parcel::id`.
            Self::Id => 128,
        }
    }
}

/// A text that is no template. Shown behind the template itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadTemplate {
    #[error("{{{0}}} is unknown: expected {{app}}, {{machine}}, {{region}}, {{date}}, {{hour}}{id}", id = if *.1 { " or {id}" } else { "" })]
    UnknownField(String, bool),
    #[error("a brace without its other")]
    Brace,
    #[error("a part between slashes is empty or begins with a dot")]
    Component,
    #[error("a control character or a backslash")]
    Control,
    #[error("it may become longer than {COMPONENT_MAX} bytes between two slashes, or {NAME_MAX} as a whole")]
    TooLong,
}

impl Template {
    /// Reads a template; `{id}` only where it is allowed.
    pub(super) fn parse(text: &str, with_id: bool) -> Result<Self, BadTemplate> {
        if text.chars().any(|char| char.is_control() || char == '\\') {
            return Err(BadTemplate::Control);
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, behind) = rest.split_at(at);
            let (name, behind) = behind[1..].split_once('}').ok_or(BadTemplate::Brace)?;
            if rest.as_bytes()[at] == b'}' || name.contains('{') {
                return Err(BadTemplate::Brace);
            }
            let field = Field::ALL.iter().find(|(known, field)| *known == name && (with_id || *field != Field::Id));
            let Some(&(_, field)) = field else { return Err(BadTemplate::UnknownField(name.to_owned(), with_id)) };
            pieces.extend((!before.is_empty()).then(|| Piece::Text(before.to_owned())));
            pieces.push(Piece::Field(field));
            rest = behind;
        }
        pieces.extend((!rest.is_empty()).then(|| Piece::Text(rest.to_owned())));
        let mut template = Self { pieces, app: false, machine: false, region: false, time: false };
        template.app = template.has(Field::App);
        template.machine = template.has(Field::Machine);
        template.region = template.has(Field::Region);
        template.time = template.has(Field::Date) || template.has(Field::Hour);
        template.check()?;
        Ok(template)
    }

    fn check(&self) -> Result<(), BadTemplate> {
        // Each field at its longest, as what begins with no dot.
        let longest = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Field(field) => "x".repeat(field.bytes_max()),
        };
        let longest: String = self.pieces.iter().map(longest).collect();
        let too_long = |component: &str| component.len() > COMPONENT_MAX;
        if longest.len() > NAME_MAX || longest.split('/').any(too_long) {
            return Err(BadTemplate::TooLong);
        }
        if longest.split('/').any(|component| component.is_empty() || component.starts_with('.')) {
            return Err(BadTemplate::Component);
        }
        Ok(())
    }

    pub(super) fn has(&self, field: Field) -> bool {
        self.pieces.contains(&Piece::Field(field))
    }

    /// What every name ends with from its last dot on; `None` where a value could decide it.
    pub(super) fn ending(&self) -> Option<&str> {
        let Some(Piece::Text(text)) = self.pieces.last() else { return None };
        text.rfind('.').map(|at| &text[at..]).filter(|ending| ending.len() > 1 && !ending.contains('/'))
    }

    /// Whether two lines of one parcel have the same name. Spares to make it.
    #[inline]
    pub(super) fn is_same(&self, one: &EntryView<'_>, other: &EntryView<'_>) -> bool {
        let same_hour = || one.received_at() == other.received_at() || hours(one) == hours(other);
        (!self.app || one.has_same(other, |row| row.app))
            && (!self.machine || one.has_same(other, |row| row.machine))
            && (!self.region || one.has_same(other, |row| row.region))
            && (!self.time || same_hour())
    }

    /// A hash that lines have alike which are the same by [`Template::is_same`].
    pub(super) fn hash_of(&self, entry: &EntryView<'_>, mut hasher: impl Hasher) -> u64 {
        let row = entry.row;
        for (is_asked, span) in [(self.app, row.app), (self.machine, row.machine), (self.region, row.region)] {
            if is_asked {
                span.of(entry.body, entry.arena).hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// Whether it gives lines names of their own.
    pub(super) fn is_of_lines(&self) -> bool {
        self.app || self.machine || self.region || self.time
    }

    /// The name of a line; `id` stands for its field.
    pub(super) fn name(&self, entry: &EntryView<'_>, id: &str) -> String {
        let mut name = String::with_capacity(128);
        let received = || Offset::UTC.to_datetime(entry.received_at().unwrap_or(Timestamp::UNIX_EPOCH));
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => name.push_str(text),
                Piece::Field(Field::App) => push_value(&mut name, entry.app_name()),
                Piece::Field(Field::Machine) => push_value(&mut name, entry.machine_id()),
                Piece::Field(Field::Region) => push_value(&mut name, entry.region()),
                Piece::Field(Field::Date) => name.push_str(&received().date().to_string()),
                Piece::Field(Field::Hour) => push(&mut name, format_args!("{:02}", received().hour())),
                Piece::Field(Field::Id) => name.push_str(id),
            }
        }
        name
    }
}

/// The hours since 1970 at which a line was received: two of the same hour are of the same day.
fn hours(entry: &EntryView<'_>) -> i64 {
    entry.received_at().map_or(0, |at| at.as_second().div_euclid(3600))
}

fn push(name: &mut String, text: std::fmt::Arguments<'_>) {
    name.write_fmt(text).expect("a String takes any write");
}

/// Appends a value as a piece of a name: two values have two pieces, none of which is empty, or begins with a dot.
fn push_value(name: &mut String, value: &str) {
    let start = name.len();
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            _ if is_plain(byte, at == 0) => name.push(char::from(byte)),
            _ => push(name, format_args!("%{byte:02X}")),
        }
    }
    match &name[start..] {
        "" => name.push('_'),
        // The name of no value.
        "_" => name.replace_range(start.., "%5F"),
        piece if piece.len() > VALUE_MAX => {
            name.truncate(start + KEPT);
            name.push('~');
            // One that nobody can choose a second value for: it would end up in the file of another.
            let hash = digest(&SHA256, value.as_bytes());
            hash.as_ref()[..HASH].iter().for_each(|byte| push(name, format_args!("{byte:02x}")));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::{
        hash::BuildHasher,
        path::{Component, Path},
    };

    use proptest::prelude::*;

    use super::*;
    use crate::sink::Parcel;

    fn piece(value: &str) -> String {
        let mut name = String::new();
        push_value(&mut name, value);
        name
    }

    #[test]
    fn lines_are_the_same_by_the_fields_that_a_template_has() {
        let line = |app, machine, region| {
            format!(r#"{{"fly":{{"app":{{"name":"{app}","instance":"{machine}"}},"region":"{region}"}}}}"#) + "\n"
        };
        let lines = [("a", "m", "r"), ("b", "m", "r"), ("a", "n", "r"), ("a", "m", "s"), ("a", "m", "r")];
        let parcel = Parcel::of_body(lines.map(|(app, machine, region)| line(app, machine, region)).concat());
        let mut entries: Vec<_> = parcel.entries().collect();
        // The last is as the first, an hour later.
        let origin = entries[4].origin.as_mut().unwrap();
        origin.received_at += jiff::SignedDuration::from_hours(1);
        let hasher = foldhash::fast::RandomState::default();
        for (text, same) in [
            ("x.{app}", [true, false, true, true, true]),
            ("x.{machine}", [true, true, false, true, true]),
            ("x.{region}", [true, true, true, false, true]),
            ("x.{date}", [true, true, true, true, false]),
            ("x.{hour}", [true, true, true, true, false]),
            ("x.{app}.{machine}.{region}.{hour}", [true, false, false, false, false]),
            ("x", [true; 5]),
        ] {
            let template = Template::parse(text, false).unwrap();
            assert_eq!(template.is_of_lines(), text != "x");
            for (entry, same) in entries.iter().zip(same) {
                assert_eq!(template.is_same(&entries[0], entry), same, "{text}");
                let hash = |entry| template.hash_of(entry, hasher.build_hasher());
                assert!(!same || hash(&entries[0]) == hash(entry), "{text}");
            }
        }
    }

    #[test]
    fn a_name_is_made_of_what_is_known_of_the_line() {
        let parcel = Parcel::of_body(
            r#"{"fly":{"app":{"name":"shop","instance":"4d89"},"region":"lax"},"message":"a"}"#.to_owned(),
        );
        let entry = parcel.entries().next().unwrap();
        let at = entry.received_at().unwrap().to_string();
        let template = Template::parse("of-{app}/{machine}.{region}/{date}/{hour}-{id}.x", true).unwrap();
        let expected = format!("of-shop/4d89.lax/{}/{}-{}.x", &at[..10], &at[11..13], parcel.id());
        assert_eq!(template.name(&entry, parcel.id()), expected);
    }

    #[test]
    fn what_could_lead_out_of_the_directory_is_no_template() {
        use BadTemplate::*;
        let unknown = |name: &str| UnknownField(name.to_owned(), false);
        let cases = [
            ("", Component),
            ("/var/{app}", Component),
            ("{app}/", Component),
            ("a//b", Component),
            ("../{app}", Component),
            ("{app}/./b", Component),
            (".{app}", Component),
            ("a\n", Control),
            ("a\\b", Control),
            ("{app", Brace),
            ("app}", Brace),
            ("{a{app}}", Brace),
            ("{}", unknown("")),
            ("{APP}", unknown("APP")),
            ("{id}", unknown("id")),
            ("{app}{app}{app}{app}", TooLong),
        ];
        for (text, problem) in cases {
            assert_eq!(Template::parse(text, false), Err(problem), "{text:?}");
        }
        for text in ["a", "{app}", "a.{app}-{machine}/{date}T{hour}", "..a".trim_matches('.')] {
            assert!(Template::parse(text, false).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn values_are_shown_as_they_are_where_that_is_harmless() {
        let long = "x".repeat(65);
        let cases = [
            ("my-app_2.0", "my-app_2.0"),
            ("", "_"),
            ("_", "%5F"),
            ("..", "%2E."),
            (".", "%2E"),
            ("a/b", "a%2Fb"),
            ("a%2Fb", "a%252Fb"),
            ("\0\n", "%00%0A"),
            ("é", "%C3%A9"),
            (&long[1..], &long[1..]),
        ];
        for (value, expected) in cases {
            assert_eq!(piece(value), expected, "{value:?}");
        }
        assert_eq!(piece(&long).len(), VALUE_MAX);
        assert_ne!(piece(&long), piece(&"x".repeat(66)));
    }

    proptest! {
        #[test]
        fn no_value_leaves_the_directory_or_takes_the_name_of_another(one in any::<String>(), other in any::<String>()) {
            for value in [&one, &other] {
                let piece = piece(value);
                let components: Vec<_> = Path::new(&piece).components().collect();
                prop_assert!(matches!(&components[..], [Component::Normal(name)] if **name == *piece), "{piece:?}");
                prop_assert!(piece.len() <= VALUE_MAX && piece.bytes().all(|byte| byte.is_ascii_graphic()));
                prop_assert!(!piece.starts_with('.'));
            }
            prop_assert_eq!(one == other, piece(&one) == piece(&other));
        }

        #[test]
        fn no_record_leaves_the_directory(app in "(\\.|/|\\PC|[a-z]){0,90}", region in "(\\.|/|\\PC){0,9}") {
            let fly = serde_json::json!({"app": {"name": app, "instance": "m"}, "region": region});
            let parcel = Parcel::of_body(serde_json::json!({"fly": fly, "message": ""}).to_string());
            let entry = parcel.entries().next().expect("it has a machine");
            let name = Template::parse("{app}/{region}{machine}", false).unwrap().name(&entry, "");
            let path = Path::new("/d").join(&name);
            let components: Vec<_> = path.components().collect();
            let in_directory = matches!(
                &components[..],
                [Component::RootDir, Component::Normal(directory), Component::Normal(_), Component::Normal(_)]
                    if **directory == *"d"
            );
            prop_assert!(in_directory, "{name:?}");
        }
    }
}
