//! What is wrong with a flow file, and where.

use std::fmt;

use serde::Serialize;

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

impl Place {
    /// Where a file begins.
    pub const START: Self = Self { line: 1, column: 1 };
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value, and where it stands in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it begins.
    pub place: Place,
}

impl<T> At<T> {
    /// `value`, which stands at `place`.
    pub fn new(value: T, place: Place) -> Self {
        Self { value, place }
    }
}

/// What kind of a problem it is: for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Code {
    /// It is not YAML, or of a kind that flows do not use (tags, several documents, too deep, too large).
    Syntax,
    /// A name stands twice in one mapping.
    Duplicate,
    /// A field that there is not at this place.
    UnknownField,
    /// A field that has to be there and is not.
    MissingField,
    /// A value of another type than the one that belongs here.
    WrongType,
    /// A value of the right type that is not allowed: a name, a time, a size, a word.
    BadValue,
    /// Fields that exclude one another, or that this executor has no use for.
    Conflict,
    /// A step that there is not.
    UnknownStep,
    /// An input, or a variable of an expression, that there is not.
    UnknownInput,
    /// A field of a step's outputs that there is not.
    UnknownOutput,
    /// An input of a sub-flow that is not given.
    MissingInput,
    /// Steps that wait for one another.
    Cycle,
    /// An expression that cannot be evaluated.
    BadExpression,
    /// The file of a sub-flow cannot be read, or is wrong itself.
    BadFlow,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// What kind of a problem it is.
    pub code: Code,
    /// In which field, as `steps.code.retry.times`; empty for the whole file.
    pub field: String,
    /// What is wrong and, where that is known, what would be right. One line.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// How many problems of one file are told.
const MOST: usize = 1000;

/// What was found wrong so far.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    found: Vec<Problem>,
}

impl Problems {
    pub(crate) fn add(
        &mut self,
        place: Place,
        code: Code,
        field: impl Into<String>,
        message: impl Into<String>,
    ) {
        if self.found.len() >= MOST {
            return;
        }
        // What a file or a parser says is put on one line.
        let message = message
            .into()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        self.found.push(Problem {
            place,
            code,
            field: field.into(),
            message,
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// All of them in the order of the file, each once.
    pub(crate) fn sorted(mut self) -> Vec<Problem> {
        self.found
            .sort_by(|a, b| (a.place, &a.field).cmp(&(b.place, &b.field)));
        self.found.dedup();
        self.found
    }
}

/// `there is no …`, with the name that was probably meant.
pub(crate) fn meant<'a>(name: &str, there: impl IntoIterator<Item = &'a str>) -> String {
    let there: Vec<&str> = there.into_iter().collect();
    let near = there
        .iter()
        .map(|other| (distance(name, other), *other))
        .filter(|(distance, other)| {
            let shorter = other.len().min(name.len());
            *distance < shorter && *distance <= 1 + shorter / 4
        })
        .min();
    match near {
        Some((_, other)) => format!("; did you mean `{other}`?"),
        None if there.is_empty() => String::new(),
        None if there.len() <= 20 => format!("; there is: {}", there.join(", ")),
        None => String::new(),
    }
}

/// How many letters have to be changed, added or taken away (Levenshtein). Long names are not worth it.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().max(b.len()) > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = before + usize::from(x != y);
            before = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(before + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_and_far_ones_are_listed() {
        assert_eq!(meant("pln", ["plan", "code"]), "; did you mean `plan`?");
        assert_eq!(meant("zebra", ["plan", "code"]), "; there is: plan, code");
        assert_eq!(meant("zebra", []), "");
        assert_eq!(distance("flaw", "lawn"), 2);
    }
}
