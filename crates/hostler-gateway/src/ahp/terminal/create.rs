//! Making terminals and disposing of them.

use std::path::PathBuf;

use ahp_types::commands::CreateTerminalParams;
use ahp_types::state::TerminalClaim;
use hostler_session::{
    By, CloseReason, ExecOptions, Policy, ResourceState, Session, SessionId, SessionOptions,
    TerminalSize,
};
use serde_json::json;

use super::{Known, LABEL, Terminals, directory, live, title};
use crate::ahp::error::AhpError;
use crate::ahp::hub::Who;
use crate::ahp::uri;

/// Of `_meta`: the program and its arguments, in place of a shell.
const ARGV: &str = "dev.hostler/argv";
/// Of `_meta`: variables for it.
const ENV: &str = "dev.hostler/env";
/// The longest name of a terminal, in characters.
const NAME: usize = 200;

/// A terminal that is being made: its name is taken.
struct Making<'a> {
    terminals: &'a Terminals,
    uri: &'a str,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.terminals.state().making.remove(self.uri);
    }
}

/// What is to be made.
struct Wanted {
    uri: String,
    session: SessionOptions,
    exec: ExecOptions,
    claim: TerminalClaim,
}

impl Terminals {
    /// `createTerminal`. `defaults`: the policy of a session that asks for nothing. `session_of` finds the session of a URI.
    ///
    /// Cancel safe: dropped, it is made all the same; it is listed then.
    pub(crate) async fn create(
        &self,
        who: &Who,
        params: CreateTerminalParams,
        defaults: &Policy,
        session_of: impl FnOnce(&str) -> Option<Session>,
    ) -> Result<(), AhpError> {
        let wanted = wanted(who, params, defaults, session_of)?;
        let by = who.by("createTerminal");
        let terminals = self.clone();
        let making = tokio::spawn(async move { terminals.make(wanted, by).await });
        making
            .await
            .unwrap_or_else(|_| Err(AhpError::internal("it was not finished")))
    }

    async fn make(&self, wanted: Wanted, by: By) -> Result<(), AhpError> {
        let taken = || AhpError::exists(format!("there is a terminal `{}` already", wanted.uri));
        {
            let mut state = self.state();
            if state.known.contains_key(&*wanted.uri) || !state.making.insert(wanted.uri.clone()) {
                return Err(taken());
            }
        }
        let _making = Making {
            terminals: self,
            uri: &wanted.uri,
        };
        let session = self.inner.sessions.open(wanted.session, by.clone()).await?;
        let process = match session.exec(wanted.exec, by.clone()).await {
            Ok(process) => process,
            Err(error) => {
                let _ = session.close(CloseReason::SpawnCancelled, by, None).await;
                return Err(error.into());
            }
        };
        let parent = session.info().parent;
        let home = match &wanted.claim {
            TerminalClaim::Session(claim) => {
                let mut home = claim.clone();
                (home.turn_id, home.tool_call_id) = (None, None);
                home
            }
            TerminalClaim::Client(_) => self.home(parent.as_ref().unwrap_or(session.id())),
        };
        let known = Known {
            own: Some(session.id().clone()),
            home,
            claim: wanted.claim,
            title: title(&process),
            directory: directory(&process, &session),
            live: std::sync::Arc::default(),
            process,
        };
        self.state().known.insert(wanted.uri.as_str().into(), known);
        self.open(&wanted.uri).await;
        self.list();
        Ok(())
    }

    /// `disposeTerminal`: returns when all that it was is gone.
    ///
    /// Cancel safe: dropped, it goes on.
    pub(crate) async fn dispose(&self, uri: &str, by: By) -> Result<(), AhpError> {
        let (terminals, uri) = (self.clone(), uri.to_owned());
        let disposing = tokio::spawn(async move { terminals.end(&uri, by).await });
        disposing
            .await
            .unwrap_or_else(|_| Err(AhpError::internal("it was not finished")))
    }

    async fn end(&self, uri: &str, by: By) -> Result<(), AhpError> {
        let known = self.state().known.get(uri).cloned();
        let known =
            known.ok_or_else(|| AhpError::not_found(format!("there is no terminal `{uri}`")))?;
        match &known.own {
            Some(session) => self.close(session, by).await?,
            None => {
                if known.process.status().state != ResourceState::Ended {
                    known.process.end(None, by).await?;
                }
                self.state().disposed.insert(uri.into());
            }
        }
        self.let_go(uri).await;
        Ok(())
    }

    /// Closes the session that was there for it.
    async fn close(&self, session: &SessionId, by: By) -> Result<(), AhpError> {
        // One that has closed by itself is not there any more.
        let Ok(session) = self.inner.sessions.get(session.as_str()) else {
            return Ok(());
        };
        let report = session.close(CloseReason::Client, by, None).await?;
        if report.remaining > 0 {
            let why = format!(
                "{} processes of the terminal cannot be ended yet: they stay listed, and it is tried on",
                report.remaining
            );
            return Err(AhpError::internal(why));
        }
        Ok(())
    }
}

fn wanted(
    who: &Who,
    params: CreateTerminalParams,
    defaults: &Policy,
    session_of: impl FnOnce(&str) -> Option<Session>,
) -> Result<Wanted, AhpError> {
    if !uri::may_be_terminal(&params.channel) {
        let why = "the channel of a terminal is `ahp-terminal:/` and a name of letters, digits, `-`, `_`, `.`, `~` and `/`";
        return Err(AhpError::params(why));
    }
    let parent = match &params.claim {
        TerminalClaim::Client(claim) if claim.client_id != *who.client => {
            return Err(AhpError::params(
                "a client claims a terminal for itself or for a session",
            ));
        }
        TerminalClaim::Client(_) => None,
        TerminalClaim::Session(claim) => {
            let session = session_of(&claim.session);
            Some(session.ok_or_else(|| AhpError::no_session(&claim.session))?)
        }
    };
    let above = parent.as_ref().map(Session::info);
    let cwd = match &params.cwd {
        Some(cwd) => Some(dir(cwd)?),
        None => above
            .as_ref()
            .and_then(|above| above.cwd.clone())
            .or_else(std::env::home_dir),
    };
    let policy = match &above {
        // The parent's end is its end.
        Some(above) => Policy {
            idle: None,
            max_age: None,
            daily_reset: None,
            detached_grace: None,
            on_disconnect: hostler_session::OnDisconnect::Detach,
            ..above.policy.clone()
        },
        None => defaults.clone(),
    };
    let session = SessionOptions {
        name: None,
        parent: above.as_ref().map(|above| above.id.clone()),
        cwd: cwd.clone(),
        env: parent
            .as_ref()
            .map_or_else(Default::default, |above| above.env().clone()),
        policy,
        labels: json!({ LABEL: params.channel }),
    };
    Ok(Wanted {
        session,
        exec: exec(&params, cwd)?,
        uri: params.channel,
        claim: params.claim,
    })
}

fn dir(cwd: &str) -> Result<PathBuf, AhpError> {
    let path = uri::path(cwd);
    let path =
        path.ok_or_else(|| AhpError::params(format!("`cwd` is to be a `file:` URI, not `{cwd}`")))?;
    match path.is_dir() {
        true => Ok(path),
        false => Err(AhpError::not_found(format!(
            "there is no directory `{}`",
            path.display()
        ))),
    }
}

fn exec(params: &CreateTerminalParams, cwd: Option<PathBuf>) -> Result<ExecOptions, AhpError> {
    let default = TerminalSize::default();
    let rows = params.rows.unwrap_or(default.rows.into());
    let cols = params.cols.unwrap_or(default.cols.into());
    let size = live::size(rows, cols).map_err(AhpError::params)?;
    let of_meta = |key: &str| params.meta.as_ref().and_then(|meta| meta.get(key)).cloned();
    let argv: Vec<String> = match of_meta(ARGV) {
        Some(argv) => serde_json::from_value(argv)
            .map_err(|error| AhpError::params(format!("`_meta.{ARGV}`: {error}")))?,
        None => vec![shell()],
    };
    if argv.is_empty() {
        return Err(AhpError::params(format!("`_meta.{ARGV}` is empty")));
    }
    let mut options = ExecOptions::new(argv).background().on_terminal(size);
    options.env.insert("TERM".into(), "xterm-256color".into());
    options.env.insert("COLORTERM".into(), "truecolor".into());
    if let Some(env) = of_meta(ENV) {
        let env: std::collections::BTreeMap<String, String> = serde_json::from_value(env)
            .map_err(|error| AhpError::params(format!("`_meta.{ENV}`: {error}")))?;
        options.env.extend(env);
    }
    options.name = params.name.as_ref().map(|name| {
        name.chars()
            .filter(|c| !c.is_control())
            .take(NAME)
            .collect()
    });
    options.cwd = cwd;
    Ok(options)
}

/// The shell of the host's user.
fn shell() -> String {
    let shell = std::env::var("SHELL").ok();
    shell
        .filter(|shell| shell.starts_with('/'))
        .unwrap_or_else(|| "/bin/sh".into())
}
