//! What distinguishes agents from one another: those with one key can stand in for each other.

use std::fmt;
use std::sync::Arc;

use serde_json::json;
use serde_json::value::RawValue;

use crate::agents::NewConversation;
use crate::catalogue::AgentSpec;

/// Everything that distinguishes a pooled agent: its name and its whole description (command, variables), where it works, and
/// all that its session and its conversation are asked for (variables, limits, policy, permissions, MCP servers) but for names
/// and labels. Compared whole. It displays as a short text that stays the same from host to host: the agent's name and a hash.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    inner: Arc<Inner>,
}

#[derive(PartialEq, Eq, Hash)]
struct Inner {
    agent: String,
    /// All of it, as JSON. It has the values of variables in it, so it is never shown.
    whole: String,
}

impl PoolKey {
    /// That of a conversation of this kind with an agent that is described like this.
    pub fn new(new: &NewConversation, spec: &AgentSpec) -> Self {
        let text = |raw: &RawValue| raw.get().to_owned();
        let session = &new.session;
        let whole = json!({
            "agent": new.agent,
            "spec": spec,
            "cwd": new.cwd,
            "session_cwd": session.cwd,
            "parent": session.parent,
            "env": session.env,
            "policy": session.policy,
            "mcp_servers": new.mcp_servers.iter().map(|raw| text(raw)).collect::<Vec<_>>(),
            "meta": new.meta.as_deref().map(text),
            "more": new.more.as_deref().map(text),
            "elicitation": new.elicitation.as_deref().map(text),
            "permission": new.permission.unwrap_or(spec.permission),
        });
        Self {
            inner: Arc::new(Inner {
                agent: new.agent.clone(),
                whole: whole.to_string(),
            }),
        }
    }

    /// The agent's name in the catalogue.
    pub fn agent(&self) -> &str {
        &self.inner.agent
    }
}

/// FNV-1a, 64 bits: the same in every build.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl fmt::Display for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.inner.agent, hash(&self.inner.whole))
    }
}

impl fmt::Debug for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> NewConversation {
        NewConversation {
            agent: "a".into(),
            cwd: "/tmp".into(),
            ..NewConversation::default()
        }
    }

    #[test]
    fn what_distinguishes_is_in_it_and_names_are_not() {
        let spec = AgentSpec::new(["x"]);
        let key = PoolKey::new(&new(), &spec);
        let mut named = new();
        named.session.name = Some("n".into());
        named.session.labels = json!({ "l": 1 });
        assert_eq!(PoolKey::new(&named, &spec), key);
        let mut env = new();
        env.session.env.insert("SECRET".into(), "hidden".into());
        let with_env = PoolKey::new(&env, &spec);
        assert_ne!(with_env, key);
        assert_ne!(with_env.to_string(), key.to_string());
        assert!(!format!("{with_env} {with_env:?}").contains("hidden"));
        let mut limits = new();
        limits.session.policy.limits.memory = Some(1);
        assert_ne!(PoolKey::new(&limits, &spec), key);
        let mut elsewhere = new();
        elsewhere.cwd = "/".into();
        assert_ne!(PoolKey::new(&elsewhere, &spec), key);
        assert_ne!(PoolKey::new(&new(), &AgentSpec::new(["y"])), key);
        // Asked for, or so anyway.
        let mut policy = new();
        policy.permission = Some(spec.permission);
        assert_eq!(PoolKey::new(&policy, &spec), key);
    }

    #[test]
    fn the_hash_is_the_known_one() {
        // The test vector of the authors for "foobar".
        assert_eq!(hash("foobar"), 0x8594_4171_f739_67e8);
    }
}
