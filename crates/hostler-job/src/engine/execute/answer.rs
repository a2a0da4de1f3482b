//! Answers of agents that are to have certain fields: how they are asked for, and read.

use serde_json::{Map, Value, json};

use crate::flow::{Declared, OutputName};

/// What an agent is told of the answer that is wanted; `None` where any will do.
pub(super) fn wanted(outputs: &[Declared<OutputName>]) -> Option<String> {
    (!outputs.is_empty()).then(|| {
        format!(
            "End your answer with one JSON object, and nothing after it, that matches this JSON Schema:\n{}",
            schema(outputs)
        )
    })
}

/// What an agent is told whose answer was none.
pub(super) fn correction(wrong: &str, outputs: &[Declared<OutputName>]) -> String {
    format!(
        "The answer was not what is wanted: {wrong}. End your answer with one JSON object, and nothing after it, that matches this JSON Schema:\n{}",
        schema(outputs)
    )
}

fn schema(outputs: &[Declared<OutputName>]) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for output in outputs {
        let name = output.name.value.as_str();
        let mut of = output.kind.json_schema();
        if let (Some(description), Value::Object(of)) = (&output.description, &mut of) {
            of.insert("description".into(), description.clone().into());
        }
        properties.insert(name.into(), of);
        if output.is_required() {
            required.push(name);
        }
    }
    json!({ "type": "object", "properties": properties, "required": required })
}

/// The fields of an answer.
///
/// # Errors
/// What is wrong with it, in one line.
pub(super) fn read(
    text: &str,
    outputs: &[Declared<OutputName>],
) -> Result<Map<String, Value>, String> {
    let object = last_object(text).ok_or("there is no JSON object in it")?;
    let mut fields = Map::new();
    for output in outputs {
        let name = output.name.value.as_str();
        match object.get(name) {
            Some(value) if !value.is_null() => {
                output
                    .kind
                    .check(value)
                    .map_err(|mismatch| format!("`{name}`: {mismatch}"))?;
                fields.insert(name.into(), value.clone());
            }
            _ if output.is_required() => {
                return Err(format!("`{name}` ({}) is missing", output.kind));
            }
            _ => {}
        }
    }
    Ok(fields)
}

/// The last JSON object that stands in a text by itself: models write words around it, and fences.
fn last_object(text: &str) -> Option<Map<String, Value>> {
    let mut found = None;
    let mut at = 0;
    while let Some(open) = text[at..].find('{') {
        let from = at + open;
        let mut values = serde_json::Deserializer::from_str(&text[from..]).into_iter::<Value>();
        match values.next() {
            Some(Ok(Value::Object(object))) => {
                at = from + values.byte_offset();
                found = Some(object);
            }
            _ => at = from + 1,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs() -> Vec<Declared<OutputName>> {
        let flow = crate::check(
            "name: x\nsteps:\n  a:\n    agent: { name: shell, prompt: x }\n    outputs:\n      verdict: { choices: [good, bad] }\n      reasons: { items: string, optional: true }\n",
        );
        flow.expect("a flow").steps[0].outputs.clone()
    }

    #[test]
    fn the_last_object_of_an_answer_counts() {
        for text in [
            r#"{"verdict": "good"}"#,
            "I thought {about it}.\n```json\n{\"verdict\": \"bad\"}\n```\nNo: {\"verdict\": \"good\", \"reasons\": [\"}\"]} So.",
            "{ { {\"verdict\":\"good\"}",
        ] {
            assert_eq!(
                read(text, &outputs()).expect(text)["verdict"],
                "good",
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_wrong_with_an_answer_is_said() {
        for (text, why) in [
            ("good", "there is no JSON object in it"),
            (
                "{\"reasons\": []}",
                "`verdict` (one of good, bad) is missing",
            ),
            ("{\"verdict\": \"fair\"}", "`verdict`: "),
            (
                "{\"verdict\": \"good\", \"reasons\": [1]}",
                "`reasons`: [0]: ",
            ),
        ] {
            let wrong = read(text, &outputs()).expect_err(text);
            assert!(wrong.starts_with(why), "{wrong}");
        }
        assert!(correction("x", &outputs()).contains("\"verdict\""));
        assert_eq!(wanted(&[]), None);
    }
}
