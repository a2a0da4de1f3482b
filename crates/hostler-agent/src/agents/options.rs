//! What holds for all conversations of a host.

use std::path::PathBuf;
use std::time::Duration;

use hostler_session::Policy;

use crate::delegate::Delegation;

/// What holds for all conversations.
#[derive(Debug, Clone)]
pub struct AgentsOptions {
    /// How many turns of a conversation may wait for the one that runs.
    pub queue: usize,
    /// The longest message of an agent, in bytes. A longer one is let go of and noted.
    pub max_message: usize,
    /// How much of each transcript is kept in memory for followers, in bytes; what is older comes from the ledger.
    pub ring: usize,
    /// How much may wait for an agent to read it, in bytes.
    pub max_unread: usize,
    /// What every agent's command is put behind: a program that ends all that the agent has started when the agent itself has
    /// ended, such as this program's own `run --`. Without, what an agent orphans stays with the session until that closes.
    pub wrap: Vec<String>,
    /// The host's own tools, which every agent is offered unless its entry in the catalogue says that it is not.
    pub tools: Option<Tools>,
    /// An agent that nobody has used for so long is ended, and started again at its next use. Zero: never.
    pub agent_idle: Duration,
    /// How many agents may be up. When there are more, those that were not used for the longest time, and do nothing, are
    /// ended. Agents at work are not: there may be more than that.
    pub max_agents: Option<usize>,
    /// How far agents and clients may hand work on to conversations below others.
    pub delegation: Delegation,
    /// How many agents are kept started ahead at the most, of all kinds together.
    pub max_spares: usize,
    /// What the sessions of such agents have from their opening on, and cannot be changed when a conversation gets one:
    /// containment and limits. One that asks for others gets a session of its own.
    pub spare_policy: Policy,
}

/// An MCP server of the host's own, on standard input and output: it is started by the agents themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    /// The program: absolute.
    pub command: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its variables, besides `HOSTLER_SESSION`, which names the agent's session.
    pub env: Vec<(String, String)>,
}

impl Tools {
    /// What the server is called.
    pub const NAME: &'static str = "hostler";
}

impl Default for AgentsOptions {
    fn default() -> Self {
        Self {
            queue: 32,
            max_message: 64 << 20,
            ring: 1 << 20,
            max_unread: 64 << 20,
            wrap: Vec::new(),
            tools: None,
            agent_idle: Duration::ZERO,
            max_agents: None,
            delegation: Delegation::default(),
            max_spares: 16,
            spare_policy: Policy::default(),
        }
    }
}
