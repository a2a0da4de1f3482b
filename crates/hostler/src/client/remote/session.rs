//! `hostler session` at a host elsewhere: new, ls, show, close and fork.

use std::time::Duration;

use ahp_types::actions::StateAction;
use ahp_types::commands::{
    ChatSource, CreateChatParams, CreateSessionParams, DisposeSessionParams, ForkChatSource,
};
use ahp_types::common::JsonObject;
use ahp_types::errors::{ahp_error_codes, json_rpc_error_codes};
use ahp_types::state::SnapshotState;
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::address::Address;
use super::find::{self, name_of};
use super::fresh;
use super::link::{Event, Link};
use crate::client::error::{Failure, Result};

/// Of `_meta` of `createSession`: what `POST /v1/sessions` takes.
const NEW: &str = "dev.hostler/new";
/// Of `_meta` of `disposeSession`: seconds between SIGTERM and SIGKILL.
const GRACE: &str = "dev.hostler/grace";
/// Of `_meta` of a session: what closing it came to.
const REPORT: &str = "dev.hostler/report";
/// The provider of sessions that have no agent.
const NO_AGENT: &str = "none";
/// What the host says where there is no such session, and where something could not be ended.
const GONE: i32 = ahp_error_codes::SESSION_NOT_FOUND;
const FAILED: i32 = json_rpc_error_codes::INTERNAL_ERROR;
/// How long the report of a session that is gone is waited for.
const LATE: Duration = Duration::from_secs(5);

fn meta(key: &str, value: Value) -> Option<JsonObject> {
    Some([(key.to_owned(), value)].into_iter().collect())
}

/// Opens a session like this, with this agent, if any; gives what is known of it. A directory is the host's.
pub(crate) async fn open(
    address: Address,
    agent: Option<&str>,
    body: Map<String, Value>,
) -> Result<Value> {
    let mut link = Link::open(address, false).await?;
    let directory = body.get("cwd").and_then(Value::as_str).map(file_uri);
    let channel = format!("ahp-session:/{}", fresh());
    let params = CreateSessionParams {
        channel: channel.clone(),
        meta: (!body.is_empty()).then(|| meta(NEW, body.into())).flatten(),
        provider: Some(agent.unwrap_or(NO_AGENT).to_owned()),
        working_directories: directory.map(|directory| vec![directory]),
        config: None,
        active_client: None,
        progress_token: None,
    };
    let _: Value = link.request("createSession", params).await?;
    let all = find::sessions(&mut link, false).await?;
    let value = find::session(&all, &channel)?.value.clone();
    link.leave().await;
    Ok(value)
}

/// A path as a URI (RFC 8089).
fn file_uri(path: &str) -> String {
    let mut uri = "file://".to_owned();
    for part in path.split('/').skip(1) {
        uri.push('/');
        uri.push_str(&crate::client::host::part(part));
    }
    uri
}

/// All sessions, as `GET /v1/sessions` shows them.
pub(crate) async fn list(address: Address) -> Result<Value> {
    let mut link = Link::open(address, false).await?;
    let all = find::sessions(&mut link, false).await?;
    link.leave().await;
    Ok(all.into_iter().map(|one| one.value).collect())
}

/// All about one.
pub(crate) async fn show(address: Address, text: &str) -> Result<Value> {
    let mut link = Link::open(address, false).await?;
    let all = find::sessions(&mut link, false).await?;
    let value = find::session(&all, text)?.value.clone();
    link.leave().await;
    Ok(value)
}

/// Closes one, and gives the report.
pub(crate) async fn close(address: Address, text: &str, grace: Option<Duration>) -> Result<Value> {
    let mut link = Link::open(address, false).await?;
    let all = find::sessions(&mut link, false).await?;
    let channel = find::session(&all, text)?.uri.clone();
    link.follow(&channel).await?;
    let params = DisposeSessionParams {
        channel: channel.clone(),
        meta: grace.and_then(|grace| meta(GRACE, grace.as_secs_f64().into())),
    };
    let mut report = None;
    let closed: Result<Value> = loop {
        match link.request("disposeSession", params.clone()).await {
            // Whether it was heard is not known; to close what is being closed does no harm.
            Err(Failure::Gone) => {
                let back = async {
                    loop {
                        match link.next().await? {
                            Event::Back => return Ok::<(), Failure>(()),
                            event => report = report.take().or(report_in(&channel, event)),
                        }
                    }
                };
                back.await?;
            }
            closed => break closed,
        }
    };
    let lost = || {
        let why = format!("session `{text}` has closed; its report was lost with the connection");
        Failure::Unclear(why)
    };
    match &closed {
        Err(Failure::Refused { code, .. }) if *code == GONE.to_string() => {
            return report.ok_or_else(lost);
        }
        // What could not be ended is in a report as well.
        Err(Failure::Refused { code, .. }) if *code == FAILED.to_string() => {}
        Err(_) => return closed,
        Ok(_) => {}
    }
    // It may come just after the answer.
    let told = timeout(LATE, async {
        while report.is_none() {
            match link.next().await? {
                Event::Gone(gone) if gone == channel => return Err(lost()),
                event => report = report_in(&channel, event),
            }
        }
        Ok(())
    });
    match (told.await, closed, report) {
        (Ok(Err(failure)), ..) | (Err(_), Err(failure), None) => Err(failure),
        (_, _, Some(report)) => {
            link.leave().await;
            Ok(report)
        }
        (_, _, None) => Err(Failure::Unclear(format!(
            "session `{text}` has closed; this host gives no report"
        ))),
    }
}

/// The close report of a session, if this tells it.
fn report_in(channel: &str, event: Event) -> Option<Value> {
    match event {
        Event::Action(envelope) if envelope.channel == channel => match envelope.action {
            StateAction::SessionMetaChanged(changed) => changed.meta?.remove(REPORT),
            _ => None,
        },
        Event::Snapshot(snapshot) => match snapshot.state {
            SnapshotState::Session(mut state) => state.meta.as_mut()?.remove(REPORT),
            _ => None,
        },
        _ => None,
    }
}

/// Makes a chat with all that was said in a session's own up to the end of its last turn, and gives its name.
pub(crate) async fn fork(address: Address, text: &str) -> Result<String> {
    let mut link = Link::open(address, false).await?;
    let all = find::sessions(&mut link, false).await?;
    let from = find::chat(&all, text)?;
    let of = |one: &&find::Listed| one.chat.as_ref() == Some(&from) || one.chats.contains(&from);
    let session = all.iter().find(of).map(|one| one.uri.clone());
    let session = session.ok_or_else(|| Failure::Nonsense("a chat without a session".into()))?;
    let SnapshotState::Chat(state) = link.follow(&from).await? else {
        return Err(Failure::Nonsense("a chat that is none".into()));
    };
    let turn = state.turns.last().map(|turn| turn.id.clone());
    let turn = turn.ok_or_else(|| {
        Failure::Unclear(format!(
            "no turn of `{text}` has ended: there is nothing to fork"
        ))
    })?;
    let chat = format!("ahp-chat:/{}", fresh());
    let params = CreateChatParams {
        channel: session,
        chat: chat.clone(),
        meta: None,
        initial_message: None,
        source: Some(ChatSource::Fork(ForkChatSource {
            chat: from,
            turn_id: turn,
        })),
        working_directories: None,
    };
    let _: Value = link.request("createChat", params).await?;
    link.leave().await;
    Ok(name_of(&chat).to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn directories_are_uris() {
        assert_eq!(super::file_uri("/a b/c%"), "file:///a%20b/c%25");
        assert_eq!(super::file_uri("/"), "file:///");
    }
}
