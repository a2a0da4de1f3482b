//! Who answers what an agent asks of people, when nobody is there.

use agent_client_protocol_schema::v1::PermissionOptionKind as Kind;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use crate::rpc::{Answer, RpcError, raw};

/// The method by which an agent asks for permission.
pub(crate) const METHOD: &str = "session/request_permission";

/// What becomes of an agent's request for permission while nobody is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PermissionPolicy {
    /// It waits for somebody to come, up to a deadline; then it is cancelled.
    #[default]
    Ask,
    /// The agent's own option that allows it, once rather than always.
    Allow,
    /// The agent's own option that rejects it, once rather than always.
    Deny,
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    options: Vec<Choice>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Choice {
    option_id: String,
    /// Of a kind that is not known, it is never chosen for anybody.
    #[serde(default)]
    kind: Option<serde_json::Value>,
}

impl PermissionPolicy {
    /// What is answered at once for nobody; `None` when it waits.
    pub(crate) fn answer(self, method: &str, params: &RawValue) -> Option<Answer> {
        let kinds = match self {
            Self::Ask => return None,
            Self::Allow => [Kind::AllowOnce, Kind::AllowAlways],
            Self::Deny => [Kind::RejectOnce, Kind::RejectAlways],
        };
        if method != METHOD {
            // Nobody's words can be made up.
            return Some(cancelled(method));
        }
        let asked: Asked = serde_json::from_str(params.get()).unwrap_or(Asked {
            options: Vec::new(),
        });
        let of_kind = |wanted: Kind| {
            asked.options.iter().find(|choice| {
                let kind = choice.kind.clone();
                kind.and_then(|kind| serde_json::from_value::<Kind>(kind).ok()) == Some(wanted)
            })
        };
        let Some(choice) = kinds.into_iter().find_map(of_kind) else {
            return Some(cancelled(method));
        };
        Some(Ok(raw(&json!({
            "outcome": { "outcome": "selected", "optionId": choice.option_id }
        }))))
    }
}

/// The answer to a request that nobody will answer.
pub(crate) fn cancelled(method: &str) -> Answer {
    match method {
        METHOD => Ok(raw(&json!({ "outcome": { "outcome": "cancelled" } }))),
        "elicitation/create" => Ok(raw(&json!({ "action": "cancel" }))),
        _ => Err(RpcError::new(RpcError::CANCELLED, "nobody answered")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(policy: PermissionPolicy, options: &str) -> String {
        let params = RawValue::from_string(format!("{{\"options\":{options}}}")).expect("JSON");
        let answer = policy.answer(METHOD, &params).expect("an answer");
        answer.expect("a result").get().to_owned()
    }

    #[test]
    fn the_agents_own_option_is_chosen_and_once_before_always() {
        let options = r#"[{"optionId":"a","kind":"allow_always"},{"optionId":"b","kind":"allow_once"},
            {"optionId":"c","kind":"reject_always"},{"optionId":"d","kind":"_x"}]"#;
        assert!(chosen(PermissionPolicy::Allow, options).contains("\"b\""));
        assert!(chosen(PermissionPolicy::Deny, options).contains("\"c\""));
        for (policy, options) in [
            (
                PermissionPolicy::Deny,
                r#"[{"optionId":"b","kind":"allow_once"}]"#,
            ),
            (PermissionPolicy::Allow, "[]"),
            (PermissionPolicy::Allow, "7"),
        ] {
            assert!(chosen(policy, options).contains("cancelled"), "{options}");
        }
    }
}
