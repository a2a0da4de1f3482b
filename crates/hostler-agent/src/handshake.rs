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
use tokio::time::{Instant, timeout_at};

use crate::agents::NewConversation;
use crate::catalogue::AgentSpec;
use crate::error::{Error, Result, Step};
use crate::link::{Caller, Waiter, last_words};
use crate::rpc::{Answer, RpcError, raw};

/// The version of ACP that is asked for. What the agent answers is passed on.
const VERSION: u32 = 1;
/// How long an agent that did not come up has to go by itself.
const GRACE: Duration = Duration::from_secs(1);

/// What is brought up, and how.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) agent: String,
    pub(crate) spec: AgentSpec,
    /// What every agent is started through.
    pub(crate) wrap: Vec<String>,
    pub(crate) new: Arc<NewConversation>,
    pub(crate) session: Session,
    /// What an earlier agent called the session, to go on with.
    pub(crate) earlier: Option<String>,
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
pub(crate) type Spawned = (ProcessHandle, oneshot::Sender<Caller>);

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
pub(crate) async fn build(plan: Plan, spawned: oneshot::Sender<Spawned>) -> Result<Built> {
    let deadline = Instant::now() + plan.spec.handshake_timeout;
    let failed = |failed: Failed, stderr| Error::Handshake {
        agent: plan.agent.clone(),
        step: failed.step,
        why: failed.why,
        rpc: failed.rpc.map(Box::new),
        stderr,
    };
    let process = match timeout_at(deadline, start(&plan)).await {
        Ok(process) => process
            .map_err(|error| failed(Failed::new(Step::Start, error.to_string()), String::new()))?,
        Err(_) => {
            return Err(failed(
                Failed::new(Step::Start, "it took too long"),
                String::new(),
            ));
        }
    };
    let by = By::new("host", "its handshake was broken off");
    let guard = process.end_on_drop(by);
    let (caller, called) = oneshot::channel();
    let _ = spawned.send((process.clone(), caller));
    let mut step = Step::Initialize;
    let done = match called.await {
        Ok(caller) => timeout_at(deadline, shake(&plan, &caller, &mut step)).await,
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

async fn shake(plan: &Plan, caller: &Caller, at: &mut Step) -> std::result::Result<Built, Failed> {
    let params = raw(&json!({
        "protocolVersion": VERSION,
        "clientCapabilities": {
            "fs": { "readTextFile": true, "writeTextFile": true },
            "terminal": true,
        },
        "clientInfo": { "name": "hostler", "title": "Hostler", "version": env!("CARGO_PKG_VERSION") },
    }));
    let initialize = ask(caller, Step::Initialize, &params, Waiter::Call).await?;
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
            let params = session_params(&plan.new, Some(earlier));
            match ask(caller, step, &params, Waiter::Call).await {
                Ok(session) => {
                    return Ok(Built {
                        initialize: initialize.into(),
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
    let params = session_params(&plan.new, None);
    let session = ask(caller, Step::NewSession, &params, Waiter::NewSession)
        .await
        .map_err(|failed| wants_authentication(failed, &known.auth_methods))?;
    let Some(agent_session) = session_named(&session) else {
        return Err(Failed::new(*at, "its answer has no `sessionId`"));
    };
    Ok(Built {
        initialize: initialize.into(),
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
fn session_params(new: &NewConversation, name: Option<&str>) -> Box<RawValue> {
    let mut params = match &new.more {
        Some(more) => serde_json::from_str::<Members>(more.get()).unwrap_or_default(),
        None => Members::new(),
    };
    let cwd: PathBuf = new.cwd.clone();
    params.insert("cwd".into(), raw(&cwd));
    params.insert("mcpServers".into(), raw(&new.mcp_servers));
    if let Some(meta) = &new.meta {
        params.insert("_meta".into(), meta.clone());
    }
    if let Some(name) = name {
        params.insert("sessionId".into(), raw(&name));
    }
    raw(&params)
}

type Members = std::collections::BTreeMap<String, Box<RawValue>>;
