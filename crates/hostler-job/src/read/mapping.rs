//! Mappings with fields of their own, and the values in them.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use hostler_run::options::{Size, Time};
use serde_json::Value;

use crate::flow::{Expression, NameError, Reference, Template};
use crate::problem::{At, Code, Problems, meant};
use crate::yaml::{Content, Entry, Node};

/// A part of the file, and the names of the fields that lead to it.
pub(super) struct Part<'n> {
    pub(super) node: &'n Node,
    pub(super) path: String,
}

impl<'n> Part<'n> {
    pub(super) fn below(path: &str, entry: &'n Entry) -> Self {
        let path = match path {
            "" => entry.key.clone(),
            path => format!("{path}.{}", entry.key),
        };
        let node = &entry.node;
        Self { node, path }
    }

    pub(super) fn refuse(&self, code: Code, why: impl Into<String>, problems: &mut Problems) {
        problems.add(self.node.place, code, self.path.as_str(), why);
    }

    fn expected(&self, what: &str, problems: &mut Problems) {
        let why = format!("{what} is expected, and this is {}", self.node.kind());
        self.refuse(Code::WrongType, why, problems);
    }

    /// A text; a number or a boolean is taken as it is written.
    pub(super) fn text(&self, problems: &mut Problems) -> Option<At<String>> {
        match &self.node.content {
            Content::Scalar(text, value) if !value.is_null() => {
                Some(At::new(text.clone(), self.node.place))
            }
            _ => {
                self.expected("a text", problems);
                None
            }
        }
    }

    /// A text that stands for something else.
    fn parsed<T, E: ToString>(
        &self,
        problems: &mut Problems,
        code: Code,
        parse: impl FnOnce(&At<String>) -> Result<T, E>,
    ) -> Option<At<T>> {
        let text = self.text(problems)?;
        match parse(&text) {
            Ok(value) => Some(At::new(value, text.place)),
            Err(error) => {
                self.refuse(code, error.to_string(), problems);
                None
            }
        }
    }

    pub(super) fn name<T: FromStr<Err = NameError>>(
        &self,
        problems: &mut Problems,
    ) -> Option<At<T>> {
        self.parsed(problems, Code::BadValue, |text| text.value.parse())
    }

    pub(super) fn template(&self, problems: &mut Problems) -> Option<At<Template>> {
        self.parsed(problems, Code::BadValue, |text| {
            no_nul(&text.value)?;
            Template::read(&text.value).map_err(|error| error.to_string())
        })
    }

    pub(super) fn expression(&self, problems: &mut Problems) -> Option<At<Expression>> {
        self.parsed(problems, Code::BadExpression, |text| {
            Expression::read(&text.value)
        })
    }

    pub(super) fn reference(&self, problems: &mut Problems) -> Option<At<Reference>> {
        self.parsed(problems, Code::BadValue, Reference::read)
    }

    pub(super) fn time(&self, problems: &mut Problems) -> Option<Duration> {
        let read = |text: &At<String>| {
            let time: Time = text
                .value
                .parse()
                .map_err(|allowed| format!("`{}` is no time: {allowed}", text.value))?;
            Ok::<_, String>(time.span)
        };
        Some(self.parsed(problems, Code::BadValue, read)?.value)
    }

    /// A time that is not nothing.
    pub(super) fn some_time(&self, problems: &mut Problems) -> Option<Duration> {
        let time = self.time(problems)?;
        if time.is_zero() {
            self.refuse(Code::BadValue, "it has to be longer than nothing", problems);
            return None;
        }
        Some(time)
    }

    pub(super) fn size(&self, problems: &mut Problems) -> Option<u64> {
        let read = |text: &At<String>| {
            let size: Size = text
                .value
                .parse()
                .map_err(|allowed| format!("`{}` is no size: {allowed}", text.value))?;
            Ok::<_, String>(size.bytes)
        };
        Some(self.parsed(problems, Code::BadValue, read)?.value)
    }

    pub(super) fn integer(
        &self,
        allowed: RangeInclusive<i64>,
        problems: &mut Problems,
    ) -> Option<i64> {
        let number = match &self.node.content {
            Content::Scalar(_, value) => value.as_i64(),
            _ => None,
        };
        let Some(number) = number else {
            self.expected("a whole number", problems);
            return None;
        };
        if !allowed.contains(&number) {
            let why = format!(
                "{number} is not allowed: from {} to {}",
                allowed.start(),
                allowed.end()
            );
            self.refuse(Code::BadValue, why, problems);
            return None;
        }
        Some(number)
    }

    pub(super) fn count(&self, least: u32, most: u32, problems: &mut Problems) -> Option<u32> {
        let number = self.integer(least.into()..=most.into(), problems)?;
        u32::try_from(number).ok()
    }

    pub(super) fn boolean(&self, problems: &mut Problems) -> Option<bool> {
        match &self.node.content {
            Content::Scalar(_, Value::Bool(value)) => Some(*value),
            _ => {
                self.expected("true or false", problems);
                None
            }
        }
    }

    pub(super) fn number(&self, problems: &mut Problems) -> Option<f64> {
        match &self.node.content {
            Content::Scalar(_, Value::Number(value)) => value.as_f64(),
            _ => {
                self.expected("a number", problems);
                None
            }
        }
    }

    /// One of these words; its place among them.
    pub(super) fn word(&self, words: &[&str], problems: &mut Problems) -> Option<usize> {
        let text = self.text(problems)?;
        let found = words.iter().position(|word| *word == text.value);
        if found.is_none() {
            let why = format!("`{}` is not allowed: {}", text.value, words.join(", "));
            self.refuse(Code::BadValue, why, problems);
        }
        found
    }

    /// The parts of a list; or the one part, where there is just one.
    pub(super) fn list_or_one(&self) -> Vec<Part<'n>> {
        match &self.node.content {
            Content::List(nodes) => self.numbered(nodes),
            _ => vec![Part {
                node: self.node,
                path: self.path.clone(),
            }],
        }
    }

    pub(super) fn list(&self, problems: &mut Problems) -> Option<Vec<Part<'n>>> {
        match &self.node.content {
            Content::List(nodes) => Some(self.numbered(nodes)),
            _ => {
                self.expected("a list", problems);
                None
            }
        }
    }

    fn numbered(&self, nodes: &'n [Node]) -> Vec<Part<'n>> {
        let numbered = nodes.iter().enumerate();
        numbered
            .map(|(index, node)| Part {
                node,
                path: format!("{}[{index}]", self.path),
            })
            .collect()
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.node.content, Content::Map(_))
    }
}

/// What is given to a program ends at a NUL.
pub(super) fn no_nul(text: &str) -> Result<(), String> {
    match text.contains('\0') {
        true => Err("a NUL character cannot be given to a program".into()),
        false => Ok(()),
    }
}

/// The fields of a mapping whose names are free.
pub(super) fn entries<'n>(at: &Part<'n>, problems: &mut Problems) -> &'n [Entry] {
    match &at.node.content {
        Content::Map(entries) => entries,
        _ => {
            at.expected("a mapping", problems);
            &[]
        }
    }
}

/// The name of a field whose name is free.
pub(super) fn name<T: FromStr<Err = NameError>>(
    entry: &Entry,
    path: &str,
    problems: &mut Problems,
) -> Option<T> {
    let read = entry.key.parse();
    read.map_err(|error: NameError| {
        problems.add(entry.key_place, Code::BadValue, path, error.to_string());
    })
    .ok()
}

/// A mapping whose fields are known.
pub(super) struct Mapping<'n, 'p> {
    entries: &'n [Entry],
    pub(super) at: Part<'n>,
    pub(super) problems: &'p mut Problems,
}

impl<'n, 'p> Mapping<'n, 'p> {
    /// Opens it; a field that is not `allowed` is a problem.
    pub(super) fn open(
        node: &'n Node,
        path: &str,
        allowed: &[&str],
        problems: &'p mut Problems,
    ) -> Option<Self> {
        let at = Part {
            node,
            path: path.to_owned(),
        };
        if !at.is_map() {
            at.expected("a mapping", problems);
            return None;
        }
        let entries = entries(&at, problems);
        for entry in entries {
            if !allowed.contains(&entry.key.as_str()) {
                let place = Part::below(path, entry);
                let why = format!(
                    "there is no field `{}` here{}",
                    entry.key,
                    meant(&entry.key, allowed.iter().copied())
                );
                problems.add(entry.key_place, Code::UnknownField, place.path, why);
            }
        }
        Some(Self {
            entries,
            at,
            problems,
        })
    }

    /// The field of this name. Where it stands twice, the first; the second has been told.
    pub(super) fn get(&self, name: &str) -> Option<Part<'n>> {
        let entry = self.entries.iter().find(|entry| entry.key == name)?;
        Some(Part::below(&self.at.path, entry))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == name)
    }

    pub(super) fn required(&mut self, name: &str) -> Option<Part<'n>> {
        let found = self.get(name);
        if found.is_none() {
            let why = format!("`{name}` is missing");
            self.at.refuse(Code::MissingField, why, self.problems);
        }
        found
    }

    pub(super) fn text_of(&mut self, name: &str) -> Option<String> {
        Some(self.get(name)?.text(self.problems)?.value)
    }

    pub(super) fn template_of(&mut self, name: &str) -> Option<At<Template>> {
        self.get(name)?.template(self.problems)
    }

    /// Says that fields exclude one another, where more than one of them is there.
    pub(super) fn one_of(&mut self, names: &[&str]) {
        let there: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| self.has(name))
            .collect();
        if let [first, second, ..] = there.as_slice()
            && let Some(at) = self.get(second)
        {
            let why = format!("`{first}` and `{second}` exclude one another");
            at.refuse(Code::Conflict, why, self.problems);
        }
    }

    /// The name of a flow: for people, but without what would spoil a listing.
    pub(super) fn flow_name(&mut self, at: Part<'n>) -> Option<String> {
        let text = at.text(self.problems)?.value;
        let fits = !text.is_empty()
            && text.len() <= 64
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !fits {
            let why = "a flow's name has letters, digits, `-`, `_` and `.`, up to 64";
            at.refuse(Code::BadValue, why, self.problems);
            return None;
        }
        Some(text)
    }
}
