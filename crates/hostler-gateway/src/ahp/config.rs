//! What of an agent can be chosen in a session: its modes, models and options, as ACP tells them.

use ahp_types::actions::{SessionConfigChangedAction, StateAction};
use ahp_types::state::{SessionConfigPropertySchema, SessionConfigSchema, SessionConfigState};
use hostler_agent::Conversation;
use hostler_session::By;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::error::Rejection;
use crate::acp::message::raw;

/// The property that is the agent's mode.
const MODE: &str = "mode";
/// The property that is the agent's model, where it is no option.
const MODEL: &str = "model";
/// The updates by which an agent tells what is chosen.
const MODE_UPDATE: &str = "current_mode_update";
const OPTION_UPDATE: &str = "config_option_update";
const UPDATES: [&str; 2] = [MODE_UPDATE, OPTION_UPDATE];

fn property(title: &str, of: &[Value], id: &str) -> SessionConfigPropertySchema {
    let texts = |key: &str| -> Vec<String> {
        let text = |one: &Value| one[key].as_str().unwrap_or_default().to_owned();
        of.iter().map(text).collect()
    };
    SessionConfigPropertySchema {
        r#type: "string".into(),
        title: title.to_owned(),
        description: None,
        default: None,
        r#enum: Some(of.iter().map(|one| one[id].clone()).collect()),
        enum_labels: Some(texts("name")),
        enum_descriptions: Some(texts("description")),
        read_only: None,
        items: None,
        min_items: None,
        max_items: None,
        properties: None,
        required: None,
        additional_properties: None,
        enum_dynamic: None,
        session_mutable: Some(true),
    }
}

/// What the agent said when it last came up can be chosen; `None` where it said nothing.
pub(super) fn of(conversation: &Conversation) -> Option<SessionConfigState> {
    let known = conversation.known()?;
    from(&serde_json::from_str(known.session.get()).ok()?)
}

fn from(said: &Value) -> Option<SessionConfigState> {
    let mut properties = std::collections::HashMap::new();
    let mut values = Map::new();
    let lists = [
        (
            MODE,
            "Mode",
            "/modes/availableModes",
            "/modes/currentModeId",
            "id",
        ),
        (
            MODEL,
            "Model",
            "/models/availableModels",
            "/models/currentModelId",
            "modelId",
        ),
    ];
    for (name, title, all, current, id) in lists {
        let all = said.pointer(all).and_then(Value::as_array);
        if let Some(all) = all.filter(|all| !all.is_empty()) {
            properties.insert(name.to_owned(), property(title, all, id));
            values.insert(
                name.to_owned(),
                said.pointer(current).cloned().unwrap_or_default(),
            );
        }
    }
    for option in said["configOptions"].as_array().into_iter().flatten() {
        let Some(id) = option["id"].as_str() else {
            continue;
        };
        let name = option["name"].as_str().unwrap_or(id);
        // Groups of options are one list here.
        let all: Vec<Value> = option["options"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|one| match one["options"].as_array() {
                Some(group) => group.clone(),
                None => vec![one.clone()],
            })
            .collect();
        let property = property(name, &all, "value");
        properties.insert(id.to_owned(), property);
        values.insert(id.to_owned(), option["currentValue"].clone());
    }
    (!properties.is_empty()).then(|| SessionConfigState {
        schema: SessionConfigSchema {
            r#type: "object".into(),
            properties,
            required: None,
        },
        values,
    })
}

/// Whether an update may change something of that: what [`changed`] looks at.
pub(super) fn may_be(update: &RawValue) -> bool {
    let has = |kind: &str| memchr::memmem::find(update.get().as_bytes(), kind.as_bytes()).is_some();
    UPDATES.into_iter().any(has)
}

/// What an update of the agent changes of that.
pub(super) fn changed(update: &RawValue) -> Option<StateAction> {
    let update: Value = serde_json::from_str(update.get()).ok()?;
    let mut config = Map::new();
    match update["sessionUpdate"].as_str()? {
        MODE_UPDATE => {
            config.insert(MODE.into(), update["currentModeId"].clone());
        }
        OPTION_UPDATE => {
            for option in update["configOptions"].as_array()? {
                let id = option["id"].as_str()?;
                config.insert(id.to_owned(), option["currentValue"].clone());
            }
        }
        _ => return None,
    }
    let replace = None;
    let action = SessionConfigChangedAction { config, replace };
    Some(StateAction::SessionConfigChanged(action))
}

/// Asks the agent to change these.
///
/// # Errors
/// Why it does not.
pub(super) async fn choose(
    conversation: &Conversation,
    config: &Map<String, Value>,
    by: &By,
) -> Result<(), Rejection> {
    let known = of(conversation);
    let modes = known
        .iter()
        .flat_map(|known| known.schema.properties.keys());
    let known: Vec<String> = modes.cloned().collect();
    for (name, value) in config {
        if !known.contains(name) {
            return Err(Rejection::new(format!("there is no option `{name}`")));
        }
        let options = conversation
            .known()
            .and_then(|known| serde_json::from_str::<Value>(known.session.get()).ok());
        let is_option = options
            .as_ref()
            .and_then(|said| said["configOptions"].as_array())
            .is_some_and(|all| all.iter().any(|one| one["id"] == name.as_str()));
        let (method, params) = match &**name {
            _ if is_option => (
                "session/set_config_option",
                json!({"sessionId": "", "configId": name, "value": value}),
            ),
            MODE => (
                "session/set_mode",
                json!({"sessionId": "", "modeId": value}),
            ),
            _ => (
                "session/set_model",
                json!({"sessionId": "", "modelId": value}),
            ),
        };
        let answer = conversation
            .call(method, raw(params.to_string()), by.clone())
            .await?;
        answer.map_err(|error| Rejection::new(error.message))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_options_are_properties() {
        let said = json!({
            "modes": {"currentModeId": "ask", "availableModes": [{"id": "ask", "name": "Ask"}, {"id": "code", "name": "Code"}]},
            "configOptions": [{"id": "effort", "name": "Effort", "type": "select", "currentValue": "low",
                "options": [{"value": "low", "name": "Low"}, {"group": "g", "options": [{"value": "high", "name": "High"}]}]}],
        });
        let config = from(&said).expect("a config");
        assert_eq!(config.values["mode"], "ask");
        assert_eq!(config.values["effort"], "low");
        let effort = &config.schema.properties["effort"];
        assert_eq!(effort.r#enum, Some(vec![json!("low"), json!("high")]));
        assert!(from(&json!({})).is_none());
        let update = raw(
            json!({"sessionUpdate": "current_mode_update", "currentModeId": "code"}).to_string(),
        );
        assert!(
            matches!(changed(&update), Some(StateAction::SessionConfigChanged(a)) if a.config["mode"] == "code")
        );
    }
}
