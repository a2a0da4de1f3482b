//! Bringing an agent up: its process, `initialize`, and a session of its own. A deadline bounds it; whoever drops it in the
//! middle, nothing of it is left.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hostler_session::{By, ExecOptions, KeepOutput, ProcessHandle, Session};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use crate::agents::{NewConversation, Tools};
use crate::catalogue::AgentSpec;
use crate::error::{Error, Result, Step};
use crate::link::{Caller, Heard, Lines, Link, Waiter, last_words};
use crate::rpc::{self, Answer, Incoming, RpcError, raw};
use crate::warm::Warm;

/// The version of ACP that is asked for. What the agent answers is passed on.
const VERSION: u32 = 1;
/// How long an agent that did not come up has to go by itself.
const GRACE: Duration = Duration::from_secs(1);

/// What is brought up, and how.
pub(crate) struct Plan {
    pub(crate) agent: String,
    pub(crate) spec: AgentSpec,
    /// What every agent is started through.
    pub(crate) wrap: Vec<String>,
    /// The host's own tools.
    pub(crate) tools: Option<Tools>,
    pub(crate) new: Arc<NewConversation>,
    pub(crate) session: Session,
    /// What an earlier agent called the session, to go on with.
    pub(crate) earlier: Option<String>,
    /// One that is up already but for its session.
    pub(crate) warm: Option<Warm>,
    pub(crate) by: By,
}

/// An agent that is up.
pub(crate) struct Built {
    pub(crate) initialize: Arc<RawValue>,
    pub(crate) session: Arc<RawValue>,
    /// What the agent calls the session.
    pub(crate) agent_session: String,
    /// Whether it knows what was said before.
    pub(crate) knows: bool,
}

/// Where the process is given to the one who reads from it, who gives back the way to call it.
pub(crate) type Spawned = (Started, oneshot::Sender<Caller>);

/// A process that is there.
pub(crate) enum Started {
    /// Nothing was said to it yet.
    Cold(ProcessHandle),
    /// It is initialized.
    Warm(Box<Link>),
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Initialized {
    agent_capabilities: Capabilities,
    auth_methods: Vec<AuthMethod>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Capabilities {
    load_session: bool,
    session_capabilities: SessionCapabilities,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SessionCapabilities {
    resume: Option<serde_json::Value>,
    close: Option<serde_json::Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthMethod {
    id: String,
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewSession {
    session_id: String,
}

/// The name that an agent gives a session in its answer to `session/new`.
pub(crate) fn session_named(result: &RawValue) -> Option<String> {
    serde_json::from_str::<NewSession>(result.get())
        .ok()
        .map(|new| new.session_id)
}

/// Whether an agent can be told that a session is over: by its answer to `initialize`.
pub(crate) fn closes_sessions(initialize: &RawValue) -> bool {
    let known: Initialized = serde_json::from_str(initialize.get()).unwrap_or_default();
    let capabilities = known.agent_capabilities.session_capabilities;
    capabilities.close.is_some()
}

/// Why a step failed.
struct Failed {
    step: Step,
    why: String,
    rpc: Option<RpcError>,
}

impl Failed {
    fn new(step: Step, why: impl Into<String>) -> Self {
        Self {
            step,
            why: why.into(),
            rpc: None,
        }
    }
}

/// Brings an agent up.
///
/// Cancel safe: dropped at any await, the process and what is under it is ended.
pub(crate) async fn build(mut plan: Plan, spawned: oneshot::Sender<Spawned>) -> Result<Built> {
    let warm = plan.warm.take();
    let (started, initialize) = match warm {
        Some(warm) => (Started::Warm(Box::new(warm.link)), Some(warm.initialize)),
        None => (Started::Cold(start_in_time(&plan).await?), None),
    };
    let deadline = Instant::now() + plan.spec.handshake_timeout;
    let failed = |failed: Failed, stderr| Error::Handshake {
        agent: plan.agent.clone(),
        step: failed.step,
        why: failed.why,
        rpc: failed.rpc.map(Box::new),
        stderr,
    };
    let process = match &started {
        Started::Cold(process) => process.clone(),
        Started::Warm(link) => link.process.clone(),
    };
    let by = By::new("host", "its handshake was broken off");
    let guard = process.end_on_drop(by);
    let (caller, called) = oneshot::channel();
    let _ = spawned.send((started, caller));
    let mut step = Step::Initialize;
    let done = match called.await {
        Ok(caller) => timeout_at(deadline, shake(&plan, initialize, &caller, &mut step)).await,
        // Whoever reads is gone, and this is dropped soon.
        Err(_) => Ok(Err(Failed::new(step, "it was broken off"))),
    };
    let why = match done {
        Ok(Ok(built)) => {
            guard.release();
            return Ok(built);
        }
        Ok(Err(why)) => why,
        Err(_) => {
            let limit = plan.spec.handshake_timeout;
            Failed::new(step, format!("no answer within {limit:?}"))
        }
    };
    // What it has to say is read when it can say no more.
    let by = By::new("host", "it did not come up");
    let _ = crate::link::end(&process, Some(GRACE), by).await;
    let error = failed(why, last_words(&process));
    drop(guard);
    Err(error)
}

async fn start_in_time(plan: &Plan) -> Result<ProcessHandle> {
    let failed = |why: String| Error::Handshake {
        agent: plan.agent.clone(),
        step: Step::Start,
        why,
        rpc: None,
        stderr: String::new(),
    };
    match timeout(plan.spec.handshake_timeout, start(plan)).await {
        Ok(process) => process.map_err(|error| failed(error.to_string())),
        Err(_) => Err(failed("it took too long".into())),
    }
}

/// Starts an agent and initializes it, for a conversation that comes later.
///
/// Cancel safe: dropped at any await, the process and what is under it is ended.
pub(crate) async fn ahead(plan: Plan, limits: (usize, usize)) -> Result<Warm> {
    let process = start_in_time(&plan).await?;
    let guard = process.end_on_drop(By::new("host", "its handshake was broken off"));
    let mut link = Link::new(&plan.agent, process.clone(), 0, limits);
    let caller = link.caller.clone();
    let answered = {
        let answer = initialize(&caller, &plan.new);
        let read = read_ahead(&mut link);
        tokio::select! {
            answer = timeout(plan.spec.handshake_timeout, answer) => answer.unwrap_or_else(|_| {
                let limit = plan.spec.handshake_timeout;
                Err(Failed::new(Step::Initialize, format!("no answer within {limit:?}")))
            }),
            () = read => Err(Failed::new(Step::Initialize, "it ended")),
        }
    };
    match answered {
        Ok(initialize) => {
            guard.release();
            let initialize = initialize.into();
            Ok(Warm { link, initialize })
        }
        Err(failed) => {
            let by = By::new("host", "it did not come up");
            let _ = crate::link::end(&process, Some(GRACE), by).await;
            Err(Error::Handshake {
                agent: plan.agent,
                step: failed.step,
                why: failed.why,
                rpc: failed.rpc.map(Box::new),
                stderr: last_words(&process),
            })
        }
    }
}

/// Takes what an agent says that has no session yet, until it ends.
///
/// Cancel safe.
pub(crate) async fn read_ahead(link: &mut Link) {
    while let Heard::Bytes(offset, bytes) = link.hear().await {
        hear_ahead(link, offset, &bytes);
    }
}

/// What an agent says before it has a session: answers are for whoever asked. It has nothing to ask for, and nothing to tell.
fn hear_ahead(link: &mut Link, offset: u64, bytes: &[u8]) {
    let mut lines = std::mem::replace(&mut link.lines, Lines::new(0, 0));
    lines.take(offset, bytes, |line| {
        let Ok(line) = line else { return };
        match rpc::parse(line.trim_ascii()) {
            Ok(Incoming::Response { id, answer }) => {
                if let Some(Waiter::Call(reply)) = link.caller.calls.remove(id) {
                    let _ = reply.send(answer.map(ToOwned::to_owned).map_err(rpc::error));
                }
            }
            Ok(Incoming::Request { id, method, .. }) => {
                let answer = Err(RpcError::method_not_found(&method));
                let _ = link.caller.writer.send(rpc::response(id, &answer));
            }
            Ok(Incoming::Notification { .. }) | Err(_) => {}
        }
    });
    link.lines = lines;
}

async fn start(plan: &Plan) -> hostler_session::Result<ProcessHandle> {
    let spec = &plan.spec;
    let argv = plan.wrap.iter().chain(&spec.command).cloned();
    let mut options = ExecOptions::new(argv).service();
    options.name = Some(plan.agent.clone());
    options.cwd = Some(spec.cwd.clone().unwrap_or_else(|| plan.new.cwd.clone()));
    options.env = spec.environment(std::env::vars_os());
    options.output = KeepOutput {
        head: 16 << 10,
        tail: 64 << 10,
        whole: false,
    };
    plan.session.exec(options, plan.by.clone()).await
}

async fn ask(
    caller: &Caller,
    step: Step,
    params: &RawValue,
    waiter: impl FnOnce(oneshot::Sender<Answer>) -> Waiter,
) -> std::result::Result<Box<RawValue>, Failed> {
    match caller.call(step.as_str(), params, waiter).await {
        Some(Ok(result)) => Ok(result),
        Some(Err(error)) => Err(Failed {
            step,
            why: error.to_string(),
            rpc: Some(error),
        }),
        None => Err(Failed::new(step, "it ended")),
    }
}

async fn initialize(
    caller: &Caller,
    new: &NewConversation,
) -> std::result::Result<Box<RawValue>, Failed> {
    let mut capabilities = json!({
        "fs": { "readTextFile": true, "writeTextFile": true },
        "terminal": true,
    });
    if let Some(elicitation) = &new.elicitation {
        capabilities["elicitation"] = json!(elicitation);
    }
    let params = raw(&json!({
        "protocolVersion": VERSION,
        "clientCapabilities": capabilities,
        "clientInfo": { "name": "hostler", "title": "Hostler", "version": env!("CARGO_PKG_VERSION") },
    }));
    ask(caller, Step::Initialize, &params, Waiter::Call).await
}

async fn shake(
    plan: &Plan,
    initialized: Option<Arc<RawValue>>,
    caller: &Caller,
    at: &mut Step,
) -> std::result::Result<Built, Failed> {
    let initialize: Arc<RawValue> = match initialized {
        Some(initialized) => initialized,
        None => initialize(caller, &plan.new).await?.into(),
    };
    let known: Initialized = serde_json::from_str(initialize.get()).unwrap_or_default();
    let capabilities = &known.agent_capabilities;
    if let Some(earlier) = &plan.earlier {
        let step = if capabilities.session_capabilities.resume.is_some() {
            Some(Step::ResumeSession)
        } else if capabilities.load_session {
            Some(Step::LoadSession)
        } else {
            None
        };
        if let Some(step) = step {
            *at = step;
            let params = session_params(plan, Some(earlier));
            match ask(caller, step, &params, Waiter::Call).await {
                Ok(session) => {
                    return Ok(Built {
                        initialize: initialize.clone(),
                        session: session.into(),
                        agent_session: earlier.clone(),
                        knows: true,
                    });
                }
                // It knows it no more; a new one is told.
                Err(failed) if failed.rpc.is_some() => {}
                Err(failed) => return Err(failed),
            }
        }
    }
    *at = Step::NewSession;
    let params = session_params(plan, None);
    let session = ask(caller, Step::NewSession, &params, Waiter::NewSession)
        .await
        .map_err(|failed| wants_authentication(failed, &known.auth_methods))?;
    let Some(agent_session) = session_named(&session) else {
        return Err(Failed::new(*at, "its answer has no `sessionId`"));
    };
    Ok(Built {
        initialize,
        session: session.into(),
        agent_session,
        knows: false,
    })
}

fn wants_authentication(mut failed: Failed, methods: &[AuthMethod]) -> Failed {
    let wanted = failed
        .rpc
        .as_ref()
        .is_some_and(|error| error.code == RpcError::AUTH_REQUIRED);
    if wanted {
        let methods: Vec<String> = methods
            .iter()
            .map(|method| format!("{} ({})", method.id, method.name))
            .collect();
        failed.why = match methods.as_slice() {
            [] => "it wants to be logged in first".into(),
            methods => format!(
                "it wants to be logged in first, by {}",
                methods.join(" or ")
            ),
        };
    }
    failed
}

/// The parameters of `session/new`, or with a name those of `session/load` and `session/resume`.
pub(crate) fn session_params(plan: &Plan, name: Option<&str>) -> Box<RawValue> {
    let new = &plan.new;
    let mut params = match &new.more {
        Some(more) => serde_json::from_str::<Members>(more.get()).unwrap_or_default(),
        None => Members::new(),
    };
    let cwd: PathBuf = new.cwd.clone();
    params.insert("cwd".into(), raw(&cwd));
    params.insert("mcpServers".into(), raw(&servers(plan)));
    if let Some(meta) = &new.meta {
        params.insert("_meta".into(), meta.clone());
    }
    if let Some(name) = name {
        params.insert("sessionId".into(), raw(&name));
    }
    raw(&params)
}

/// The MCP servers of the session: those that the client named, and the host's own unless one is called as that is.
fn servers(plan: &Plan) -> Vec<Box<RawValue>> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Named {
        name: String,
    }
    let mut servers = plan.new.mcp_servers.clone();
    let named = |server: &RawValue| {
        let server: Named = serde_json::from_str(server.get()).unwrap_or_default();
        server.name == Tools::NAME
    };
    if let Some(tools) = &plan.tools
        && plan.spec.tools
        && !servers.iter().any(|server| named(server))
    {
        let session = ("HOSTLER_SESSION", plan.session.id().as_str());
        let env = tools.env.iter().map(|(name, value)| (&**name, &**value));
        let env: Vec<_> = env
            .chain([session])
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        servers.push(raw(&json!({
            "name": Tools::NAME,
            "command": tools.command,
            "args": tools.args,
            "env": env,
        })));
    }
    servers
}

type Members = std::collections::BTreeMap<String, Box<RawValue>>;
