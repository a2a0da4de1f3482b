//! The tools, as the agent's model is told of them. What they do is in [`super::work`].

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::CallToolResult;
use rmcp::service::{RequestContext, RoleServer};
use rmcp::{ServerHandler, tool, tool_handler, tool_router};

use super::asked::{Delegate, Keep, Kill, List, Log, Start, StopAll, Wait, Which, Write};
use super::told::result;
use super::watch::Matches;
use crate::client::host::Host;

/// The server of one agent.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) host: Host,
    pub(super) session: String,
    /// What it has started, by id.
    mine: Mutex<BTreeMap<String, Mine>>,
}

/// What is remembered of a process that this server has started.
#[derive(Debug, Default)]
pub(super) struct Mine {
    /// Up to where its output was shown.
    pub(super) shown: u64,
    /// Taken out while they are looked for.
    pub(super) matches: Option<Matches>,
}

#[tool_router]
impl Server {
    pub(super) fn new(host: Host, session: String) -> Self {
        Self {
            host,
            session,
            mine: Mutex::default(),
        }
    }

    /// Start a command in the background, such as a dev server, a watcher or a long build. It belongs to this session: it is seen,
    /// and it is ended with the session at the latest. Answers at once; use process_wait with until=port for a server.
    #[tool(annotations(title = "Start a background process", destructive_hint = false))]
    async fn process_start(&self, Parameters(start): Parameters<Start>) -> CallToolResult {
        result(self.start(start).await)
    }

    /// How a process stands: whether it runs or how it ended, its ports, what it has written since the last poll, and lines that
    /// matched its patterns.
    #[tool(annotations(title = "Look at a background process", read_only_hint = true))]
    async fn process_poll(&self, Parameters(which): Parameters<Which>) -> CallToolResult {
        result(self.poll(&which.process).await)
    }

    /// Read what a process has written (standard output and standard error together): the last lines, or from an offset on.
    #[tool(annotations(title = "Read a process's log", read_only_hint = true))]
    async fn process_log(&self, Parameters(log): Parameters<Log>) -> CallToolResult {
        result(self.log(log).await)
    }

    /// Wait until a process has ended, listens on a port, or has written a line that matches; for a bounded time. A time that is
    /// over is no failure: the answer says so, and the process runs on.
    #[tool(annotations(title = "Wait for a background process", read_only_hint = true))]
    async fn process_wait(&self, Parameters(wait): Parameters<Wait>) -> CallToolResult {
        result(self.wait(wait).await)
    }

    /// Write to the standard input of a process that was started with stdin=true.
    #[tool(annotations(title = "Write to a background process"))]
    async fn process_write(&self, Parameters(write): Parameters<Write>) -> CallToolResult {
        result(self.write(write).await)
    }

    /// Stop a process and everything that it has started, also what has detached itself. Use this instead of `kill` and `pkill`.
    /// Answers when all of it is gone and its ports are free again.
    #[tool(annotations(title = "Stop a background process", destructive_hint = true))]
    async fn process_kill(&self, Parameters(kill): Parameters<Kill>) -> CallToolResult {
        result(self.kill(kill).await)
    }

    /// The background processes that were started with process_start, with their ports and how they stand.
    #[tool(annotations(title = "List background processes", read_only_hint = true))]
    async fn process_list(&self, Parameters(asked): Parameters<List>) -> CallToolResult {
        result(self.list(asked).await)
    }

    /// Stop all processes that were started with process_start, all at once, and nothing else.
    #[tool(annotations(title = "Stop all background processes", destructive_hint = true))]
    async fn process_stop_all(&self, Parameters(asked): Parameters<StopAll>) -> CallToolResult {
        result(self.stop_all(asked).await)
    }

    /// Hand a piece of work to another agent, in a session of its own below this one, and get what it says at its end. It sees the
    /// same files and nothing of this conversation. Its session, with all that it has started, is closed after that.
    #[tool(annotations(title = "Delegate to another agent", destructive_hint = true))]
    async fn delegate(
        &self,
        Parameters(asked): Parameters<Delegate>,
        context: RequestContext<RoleServer>,
    ) -> CallToolResult {
        result(self.hand_on(asked, context.ct.cancelled()).await)
    }

    /// Keep a process when this session ends: hand it to a session of its own. Only where the user wants that it outlives this
    /// conversation; it is no longer listed here then.
    #[tool(annotations(title = "Keep a process beyond this session"))]
    async fn process_keep(&self, Parameters(keep): Parameters<Keep>) -> CallToolResult {
        result(self.keep(keep).await)
    }
}

#[tool_handler(
    name = "hostler",
    instructions = "Background processes that are owned: start servers, watchers and long jobs with process_start instead of `&` or \
        `nohup`, and end them with process_kill or process_stop_all instead of `kill` or `pkill`. After these, their ports are free."
)]
impl ServerHandler for Server {}

impl Server {
    /// What it has started.
    pub(super) fn mine(&self) -> MutexGuard<'_, BTreeMap<String, Mine>> {
        // Never held over an await.
        self.mine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has started that.
    pub(super) fn is_mine(&self, id: &str) -> bool {
        self.mine().contains_key(id)
    }
}
