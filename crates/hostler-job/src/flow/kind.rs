//! Types of values.

use std::fmt;

use serde_json::{Value, json};

/// What a value may be.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Anything.
    Any,
    /// A text.
    String,
    /// One of these texts.
    Choice(Vec<String>),
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// A list of such.
    Array(Box<Kind>),
    /// An object with at least these fields, or any object where nothing is said of them.
    Object(Option<Vec<(String, Kind)>>),
}

/// Why a value is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{should}, and this is {is}", if path.is_empty() { String::new() } else { format!("{path}: ") })]
pub struct Mismatch {
    /// Where in the value, as `files[2].name`; empty for all of it.
    pub path: String,
    /// What it should be.
    pub should: String,
    /// What it is.
    pub is: String,
}

impl Kind {
    /// The words for types in a file.
    pub const WORDS: [&'static str; 7] = [
        "any", "string", "integer", "number", "boolean", "array", "object",
    ];

    /// What the word stands for when nothing else is said.
    pub fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "any" => Self::Any,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            "array" => Self::Array(Box::new(Self::Any)),
            "object" => Self::Object(None),
            _ => return None,
        })
    }

    /// Whether `value` is one.
    ///
    /// # Errors
    /// The first place that is not.
    pub fn check(&self, value: &Value) -> Result<(), Mismatch> {
        self.check_at(value, &mut String::new())
    }

    fn check_at(&self, value: &Value, path: &mut String) -> Result<(), Mismatch> {
        let fits = match (self, value) {
            (Self::Any, _)
            | (Self::String, Value::String(_))
            | (Self::Number, Value::Number(_))
            | (Self::Boolean, Value::Bool(_))
            | (Self::Object(None), Value::Object(_)) => true,
            (Self::Choice(choices), Value::String(text)) => choices.contains(text),
            // JSON knows one kind of numbers: 2.0 is whole.
            (Self::Integer, Value::Number(number)) => {
                number.is_i64() || number.as_f64().is_some_and(|number| number.fract() == 0.0)
            }
            (Self::Array(items), Value::Array(values)) => {
                let length = path.len();
                for (index, value) in values.iter().enumerate() {
                    path.push_str(&format!("[{index}]"));
                    items.check_at(value, path)?;
                    path.truncate(length);
                }
                true
            }
            (Self::Object(Some(fields)), Value::Object(values)) => {
                let length = path.len();
                for (name, kind) in fields {
                    if length > 0 {
                        path.push('.');
                    }
                    path.push_str(name);
                    kind.check_at(values.get(name).unwrap_or(&Value::Null), path)?;
                    path.truncate(length);
                }
                true
            }
            _ => false,
        };
        if fits {
            return Ok(());
        }
        Err(Mismatch {
            path: path.clone(),
            should: format!("{self} is wanted"),
            is: shown(value),
        })
    }

    /// Whether everything of the type `other` is of this one as well, as far as can be told.
    pub fn takes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::Number, Self::Integer) | (Self::String, Self::Choice(_)) => true,
            (Self::Choice(_), Self::String) => true,
            (Self::Choice(to), Self::Choice(from)) => from.iter().all(|word| to.contains(word)),
            (Self::Array(to), Self::Array(from)) => to.takes(from),
            (Self::Object(Some(to)), Self::Object(Some(from))) => to.iter().all(|(name, kind)| {
                let field = from.iter().find(|(other, _)| other == name);
                field.is_some_and(|(_, other)| kind.takes(other))
            }),
            (Self::Object(_), Self::Object(_)) => true,
            (to, from) => to == from,
        }
    }

    /// What stands in a value of this type under `name`; an error where there cannot be such a field.
    pub(crate) fn field(&self, name: &str) -> Result<Self, String> {
        match self {
            Self::Any | Self::Object(None) => Ok(Self::Any),
            Self::Object(Some(fields)) => fields
                .iter()
                .find(|(other, _)| other == name)
                .map(|(_, kind)| kind.clone())
                .ok_or_else(|| {
                    let there = fields.iter().map(|(name, _)| name.as_str());
                    format!(
                        "the object has no field `{name}`{}",
                        crate::problem::meant(name, there)
                    )
                }),
            other => Err(format!("{other} has no fields, so there is no `{name}`")),
        }
    }

    /// As JSON Schema, for those who are to give such a value.
    pub fn json_schema(&self) -> Value {
        match self {
            Self::Any => json!({}),
            Self::String => json!({ "type": "string" }),
            Self::Choice(choices) => json!({ "enum": choices }),
            Self::Integer => json!({ "type": "integer" }),
            Self::Number => json!({ "type": "number" }),
            Self::Boolean => json!({ "type": "boolean" }),
            Self::Array(items) => json!({ "type": "array", "items": items.json_schema() }),
            Self::Object(None) => json!({ "type": "object" }),
            Self::Object(Some(fields)) => {
                let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
                let properties: serde_json::Map<String, Value> = fields
                    .iter()
                    .map(|(name, kind)| (name.clone(), kind.json_schema()))
                    .collect();
                json!({ "type": "object", "properties": properties, "required": names })
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("anything"),
            Self::String => f.write_str("a string"),
            Self::Choice(choices) => write!(f, "one of {}", choices.join(", ")),
            Self::Integer => f.write_str("an integer"),
            Self::Number => f.write_str("a number"),
            Self::Boolean => f.write_str("a boolean"),
            Self::Array(items) if **items == Self::Any => f.write_str("an array"),
            Self::Array(items) => write!(f, "an array (each {items})"),
            Self::Object(_) => f.write_str("an object"),
        }
    }
}

/// A value in a few words.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "missing or null".into(),
        Value::Bool(_) => "a boolean".into(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) if text.chars().count() <= 32 => format!("the string \"{text}\""),
        Value::String(_) => "a string".into(),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Kind {
        let file = Kind::Object(Some(vec![("name".into(), Kind::String)]));
        Kind::Object(Some(vec![("files".into(), Kind::Array(Box::new(file)))]))
    }

    #[test]
    fn values_are_checked_with_the_place_of_the_first_that_is_wrong() {
        files()
            .check(&json!({"files": [{"name": "a"}], "more": 1}))
            .expect("right");
        let wrong = files().check(&json!({"files": [{"name": "a"}, {"name": 2}]}));
        let words = wrong.expect_err("wrong").to_string();
        assert_eq!(
            words,
            "files[1].name: a string is wanted, and this is the number 2"
        );
        for (kind, right, wrong) in [
            (Kind::Integer, json!(2.0), json!(2.5)),
            (Kind::Number, json!(2.5), json!("2")),
            (Kind::Boolean, json!(false), json!(0)),
            (Kind::Choice(vec!["a".into()]), json!("a"), json!("b")),
            (Kind::Object(None), json!({}), json!([])),
        ] {
            kind.check(&right).expect("right");
            kind.check(&wrong).expect_err("wrong");
        }
    }

    #[test]
    fn types_take_what_is_narrower() {
        assert!(Kind::Number.takes(&Kind::Integer) && !Kind::Integer.takes(&Kind::Number));
        assert!(Kind::String.takes(&Kind::Choice(vec![])) && !Kind::Boolean.takes(&Kind::String));
        assert!(files().takes(&Kind::Object(None)) && !files().takes(&Kind::Object(Some(vec![]))));
        assert!(Kind::Any.takes(&files()) && files().takes(&Kind::Any));
    }
}
