//! The inputs that a job is given, beside those that its flow wants.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::flow::{Flow, Kind};
use crate::problem::{Code, Place, Problem, Problems, meant};

/// What the inputs of a job of `flow` are when `told` is given: with the defaults, and null for those that may be missing.
///
/// # Errors
/// Every input that is missing, unknown or of a wrong type. The place is that of the declaration, or of the file's beginning for
/// an input that there is not.
pub fn given(
    flow: &Flow,
    told: &BTreeMap<String, Value>,
) -> Result<Map<String, Value>, Vec<Problem>> {
    let mut problems = Problems::default();
    let mut inputs = Map::new();
    for declared in &flow.inputs {
        let name = declared.name.value.as_str();
        let mut refuse = |code: Code, why: String| {
            let field = format!("inputs.{name}");
            problems.add(declared.name.place, code, field, why);
        };
        let value = match (told.get(name), &declared.default) {
            // Null is what an input is that is not given.
            (Some(Value::Null) | None, Some(default)) => default.clone(),
            (Some(Value::Null) | None, None) if declared.optional => Value::Null,
            (Some(value), _) => {
                if let Err(mismatch) = declared.kind.check(value) {
                    refuse(Code::WrongType, format!("the input `{name}`: {mismatch}"));
                }
                value.clone()
            }
            (None, None) => {
                let why = format!("the input `{name}` ({}) is not given", declared.kind);
                refuse(Code::MissingInput, why);
                continue;
            }
        };
        inputs.insert(name.to_owned(), value);
    }
    for name in told.keys() {
        if !inputs.contains_key(name) && !is_declared(flow, name) {
            let there = flow.inputs.iter().map(|input| input.name.value.as_str());
            let why = format!("the flow has no input `{name}`{}", meant(name, there));
            problems.add(Place::START, Code::UnknownInput, "inputs", why);
        }
    }
    match problems.is_empty() {
        true => Ok(inputs),
        false => Err(problems.sorted()),
    }
}

fn is_declared(flow: &Flow, name: &str) -> bool {
    let mut inputs = flow.inputs.iter();
    inputs.any(|input| input.name.value.as_str() == name)
}

/// What the text of a command line stands for, as the input `name` of `flow`: itself, where that is a string; else JSON, where it is
/// that; else itself. Whether it is right is for [`given`] to say.
pub fn input_from_text(flow: &Flow, name: &str, text: &str) -> Value {
    let mut inputs = flow.inputs.iter();
    let declared = inputs.find(|input| input.name.value.as_str() == name);
    match declared.map(|input| &input.kind) {
        Some(Kind::String | Kind::Choice(_)) => Value::String(text.to_owned()),
        _ => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn flow() -> Flow {
        let text = "name: x\ninputs:\n  task: string\n  often: { type: integer, default: 3 }\n  files: { items: string, optional: true }\nsteps: { a: { sleep: 1 } }\n";
        crate::check(text).expect("a flow")
    }

    fn told(words: &[(&str, &str)]) -> Result<Value, Vec<String>> {
        let flow = flow();
        let told = words
            .iter()
            .map(|(name, text)| ((*name).to_owned(), input_from_text(&flow, name, text)));
        let lines = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect();
        given(&flow, &told.collect())
            .map(Value::Object)
            .map_err(lines)
    }

    #[test]
    fn inputs_are_taken_by_their_types_with_what_is_not_said() {
        let inputs = told(&[("task", "5"), ("files", "[\"a\"]")]).expect("right");
        assert_eq!(inputs, json!({"task": "5", "often": 3, "files": ["a"]}));
        let inputs = told(&[("task", "null"), ("often", "null")]).expect("right");
        assert_eq!(inputs, json!({"task": "null", "often": 3, "files": null}));
    }

    #[test]
    fn all_that_is_wrong_with_them_is_told_at_once() {
        let wrong = told(&[("often", "much"), ("files", "[1]"), ("tsak", "x")]);
        let should = [
            "1:1: inputs: the flow has no input `tsak`; did you mean `task`?",
            "3:3: inputs.task: the input `task` (a string) is not given",
            "4:3: inputs.often: the input `often`: an integer is wanted, and this is the string \"much\"",
            "5:3: inputs.files: the input `files`: [0]: a string is wanted, and this is the number 1",
        ];
        assert_eq!(wrong.expect_err("wrong"), should);
    }

    #[test]
    fn null_is_refused_where_something_is_needed() {
        let flow = flow();
        let told = BTreeMap::from([("task".to_owned(), Value::Null)]);
        let wrong = given(&flow, &told).expect_err("null");
        assert_eq!(wrong[0].code, Code::WrongType);
    }
}
