//! What a JSON Schema says of a value: of the words of JSON Schema 2020-12, those that our schemas use. Another word fails the test.

use serde_json::{Map, Value};

/// Whether `value` fits; else the places that do not.
pub(crate) fn errors(schema: &Value, value: &Value) -> Result<(), String> {
    let mut found = Vec::new();
    visit(schema, schema, value, "", &mut found);
    match found.is_empty() {
        true => Ok(()),
        false => Err(found.join("\n")),
    }
}

fn fits(root: &Value, schema: &Value, value: &Value) -> bool {
    let mut found = Vec::new();
    visit(root, schema, value, "", &mut found);
    found.is_empty()
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the type {other}"),
    }
}

fn all(said: &Value) -> &[Value] {
    said.as_array().expect("a list")
}

fn visit(root: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let words = match schema {
        Value::Bool(true) => return,
        Value::Bool(false) => return found.push(format!("{at}: nothing is allowed here")),
        Value::Object(words) => words,
        other => panic!("no schema: {other}"),
    };
    for (word, said) in words {
        if !holds(root, words, word, said, value, at, found) {
            found.push(format!("{at}: {word}: {said}: {value}"));
        }
    }
}

fn holds(
    root: &Value,
    words: &Map<String, Value>,
    word: &str,
    said: &Value,
    value: &Value,
    at: &str,
    found: &mut Vec<String>,
) -> bool {
    let number = said.as_f64().unwrap_or_default();
    let object = value.as_object();
    match word {
        "$schema" | "title" | "description" | "$defs" | "then" | "else" => true,
        "$ref" => {
            let pointer = said.as_str().and_then(|said| said.strip_prefix('#'));
            let target = pointer.and_then(|pointer| root.pointer(pointer));
            visit(root, target.expect("a definition"), value, at, found);
            true
        }
        "type" => match said {
            Value::String(kind) => is(kind, value),
            kinds => all(kinds)
                .iter()
                .any(|kind| is(kind.as_str().expect("a word"), value)),
        },
        "enum" => all(said).contains(value),
        "const" => said == value,
        "pattern" => {
            let pattern = regex::Regex::new(said.as_str().expect("a pattern")).expect("a pattern");
            value.as_str().is_none_or(|text| pattern.is_match(text))
        }
        "minimum" => value.as_f64().is_none_or(|value| value >= number),
        "maximum" => value.as_f64().is_none_or(|value| value <= number),
        "minItems" => value
            .as_array()
            .is_none_or(|items| items.len() as f64 >= number),
        "minProperties" => object.is_none_or(|fields| fields.len() as f64 >= number),
        "required" => object.is_none_or(|fields| {
            let mut names = all(said).iter();
            names.all(|name| fields.contains_key(name.as_str().expect("a name")))
        }),
        "properties" => {
            for (name, schema) in said.as_object().expect("properties") {
                if let Some(value) = object.and_then(|fields| fields.get(name)) {
                    visit(root, schema, value, &format!("{at}/{name}"), found);
                }
            }
            true
        }
        "additionalProperties" => {
            let known = words.get("properties").and_then(Value::as_object);
            for (name, value) in object.into_iter().flatten() {
                if known.is_none_or(|known| !known.contains_key(name)) {
                    visit(root, said, value, &format!("{at}/{name}"), found);
                }
            }
            true
        }
        "propertyNames" => object.is_none_or(|fields| {
            let mut names = fields.keys();
            names.all(|name| fits(root, said, &Value::String(name.clone())))
        }),
        "items" => {
            for item in value.as_array().into_iter().flatten() {
                visit(root, said, item, &format!("{at}/-"), found);
            }
            true
        }
        "anyOf" => all(said).iter().any(|schema| fits(root, schema, value)),
        "oneOf" => {
            all(said)
                .iter()
                .filter(|schema| fits(root, schema, value))
                .count()
                == 1
        }
        "not" => !fits(root, said, value),
        "if" => {
            let next = if fits(root, said, value) {
                "then"
            } else {
                "else"
            };
            words
                .get(next)
                .is_none_or(|schema| fits(root, schema, value))
        }
        other => panic!("the word {other}"),
    }
}
