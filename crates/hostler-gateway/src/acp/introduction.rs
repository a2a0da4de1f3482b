//! What client and host say of themselves before anything else: `initialize`.

use hostler_agent::{Answer, ClientCapabilities, Error as AgentError, Ready};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::connection::{Connection, Task};
use super::message;
use super::methods::{failure, parse, to_raw};

/// The version of ACP that is spoken here.
const VERSION: u64 = 1;

impl Connection {
    /// Whether the client said that it can do this.
    pub(super) fn can(&self, what: &str) -> bool {
        self.capabilities().can(what)
    }

    /// The questions that it can show, if it can.
    pub(super) fn elicitation(&self) -> Option<Box<RawValue>> {
        let raw = self
            .capabilities()
            .raw
            .filter(|_| self.can("elicitation"))?;
        message::Members::of(&raw)
            .get("elicitation")
            .map(ToOwned::to_owned)
    }

    pub(super) async fn initialize(&self, task: Task) {
        let Some(id) = &task.id else { return };
        let answer = self.introduce(task.params.as_deref());
        self.answer(id, answer).await;
    }

    fn introduce(&self, params: Option<&RawValue>) -> Answer {
        #[derive(Deserialize)]
        struct Hello<'a> {
            #[serde(borrow, rename = "protocolVersion")]
            _version: &'a RawValue,
            #[serde(borrow, rename = "clientCapabilities")]
            capabilities: Option<&'a RawValue>,
        }
        let hello: Hello<'_> = parse(params)?;
        let agent = &self.client.agent;
        if self.gateway.agents().catalogue().get(agent).is_none() {
            return Err(failure(AgentError::NoAgent(agent.clone())));
        }
        let capabilities = hello.capabilities.map(ToOwned::to_owned);
        let capabilities = capabilities.unwrap_or_else(|| message::raw("{}".into()));
        self.initialized(ClientCapabilities {
            answers: true,
            // Who says nothing can do nothing that has to be said.
            raw: Some(capabilities.into()),
        });
        let known = self.gateway.handshake(agent);
        Ok(to_raw(&introduction(agent, known.as_deref())))
    }

    /// Remembers what an agent says of itself, for the next client.
    pub(super) fn learn(&self, ready: &Ready) {
        self.gateway
            .learn_handshake(&self.client.agent, ready.initialize.clone());
    }
}

/// What the host says of itself, and of the agent behind it by what that said when it was last started here. Of an agent that was
/// not, everything that may be in a prompt is said to be welcome: what it cannot take it refuses itself.
fn introduction(agent: &str, known: Option<&RawValue>) -> Value {
    let known: Value = known
        .and_then(|known| serde_json::from_str(known.get()).ok())
        .unwrap_or_else(|| {
            json!({"agentCapabilities": {
                "promptCapabilities": {"image": true, "audio": true, "embeddedContext": true},
                "mcpCapabilities": {"http": true, "sse": true},
            }})
        });
    let mut capabilities = match known.get("agentCapabilities") {
        Some(Value::Object(members)) => members.clone(),
        _ => serde_json::Map::new(),
    };
    let mut session = match capabilities.get("sessionCapabilities") {
        Some(Value::Object(members)) => members.clone(),
        _ => serde_json::Map::new(),
    };
    // Whatever the agent can do: these are served from the ledger.
    for own in ["list", "resume", "close", "fork"] {
        session.insert(own.into(), json!({}));
    }
    session.remove("delete");
    capabilities.insert("loadSession".into(), true.into());
    capabilities.insert("sessionCapabilities".into(), session.into());
    let auth = known.get("authMethods").cloned();
    json!({
        "protocolVersion": VERSION,
        "agentCapabilities": capabilities,
        "agentInfo": {
            "name": "hostler",
            "title": format!("Hostler ({agent})"),
            "version": env!("CARGO_PKG_VERSION"),
        },
        "authMethods": auth.unwrap_or_else(|| json!([])),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_own_capabilities_are_kept_and_the_hosts_added() {
        let known = message::raw(
            json!({
                "protocolVersion": 1,
                "agentCapabilities": {
                    "promptCapabilities": {"image": true},
                    "sessionCapabilities": {"delete": {}, "additionalDirectories": {}},
                    "strange": [1]
                },
                "authMethods": [{"id": "key"}]
            })
            .to_string(),
        );
        let said = introduction("claude", Some(&known));
        let capabilities = &said["agentCapabilities"];
        assert_eq!(capabilities["strange"], json!([1]));
        assert_eq!(capabilities["promptCapabilities"], json!({"image": true}));
        assert_eq!(capabilities["loadSession"], true);
        let session = &capabilities["sessionCapabilities"];
        assert!(session["delete"].is_null() && session["additionalDirectories"].is_object());
        assert!(session["list"].is_object() && session["resume"].is_object());
        assert_eq!(said["authMethods"], json!([{"id": "key"}]));
        let unknown = introduction("claude", None);
        assert_eq!(
            unknown["agentCapabilities"]["promptCapabilities"]["image"],
            true
        );
    }
}
