//! The JSON Schema of flows, for editors.

/// The schema (JSON Schema 2020-12), as text. It says which fields there are and of what types; what they say of one another is
/// known to [`crate::check`] only.
pub fn schema() -> &'static str {
    include_str!("schema.json")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::flow::{Action, ExecutorKind, Kind};
    use crate::read;

    fn parsed() -> Value {
        serde_json::from_str(schema()).expect("JSON")
    }

    /// The fields of the mapping that the schema has at `pointer`, or in one of the alternatives there.
    fn properties(pointer: &str) -> BTreeSet<String> {
        let schema = parsed();
        let at = schema
            .pointer(pointer)
            .unwrap_or_else(|| panic!("{pointer}"));
        let alternatives = ["anyOf", "oneOf"]
            .iter()
            .filter_map(|word| at.get(word)?.as_array());
        let mut all = std::iter::once(at).chain(alternatives.flatten());
        let properties = all.find_map(|one| one.get("properties")?.as_object());
        properties
            .unwrap_or_else(|| panic!("{pointer}"))
            .keys()
            .cloned()
            .collect()
    }

    #[test]
    fn the_schema_has_the_fields_that_are_read() {
        for (pointer, fields) in [
            ("", read::FLOW),
            ("/properties/limits", read::FLOW_LIMITS),
            ("/$defs/declared_input", read::INPUT_DECLARED),
            ("/$defs/output", read::OUTPUT_DECLARED),
            ("/$defs/source", read::FROM),
            ("/$defs/command", read::COMMAND),
            ("/$defs/poll", read::POLL),
            ("/$defs/agent", read::AGENT),
            ("/$defs/input", read::INPUT),
            ("/$defs/flow", read::FLOW_FILE),
            ("/$defs/step", read::STEP),
            ("/$defs/limits", read::LIMITS),
            ("/$defs/retry", read::RETRY),
            ("/$defs/for_each", read::FOR_EACH),
            ("/$defs/exit", read::EXIT),
        ] {
            let fields: BTreeSet<String> = fields.iter().map(|&field| field.to_owned()).collect();
            assert_eq!(properties(pointer), fields, "{pointer}");
        }
    }

    #[test]
    fn the_schema_has_the_words_that_are_read() {
        let schema = parsed();
        let words = |pointer: &str| -> Vec<String> {
            let list = schema.pointer(pointer).and_then(Value::as_array);
            let list = list.unwrap_or_else(|| panic!("{pointer}")).iter();
            list.map(|word| word.as_str().expect("a word").to_owned())
                .collect()
        };
        assert_eq!(words("/$defs/exit/properties/action/enum"), Action::WORDS);
        assert_eq!(words("/$defs/type/oneOf/0/enum"), Kind::WORDS);
        let executors: BTreeSet<String> = properties("/$defs/step/properties/fallback");
        let all = ExecutorKind::ALL.map(|kind| kind.word().to_owned());
        assert_eq!(executors, BTreeSet::from(all));
    }
}
