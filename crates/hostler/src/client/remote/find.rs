//! What there is at a host elsewhere, and which of it is meant.

use ahp_types::commands::{ListSessionsParams, ListSessionsResult};
use ahp_types::common::{JsonObject, ROOT_RESOURCE_URI};
use ahp_types::state::{SessionStatus, SessionSummary};
use serde_json::{Value, json};

use super::TERMINAL;
use super::link::Link;
use crate::client::api::{Process, Session};
use crate::client::error::{Failure, Result};
use crate::client::resolve::{Named, choose};

/// Of `_meta` of a session in a listing: all that the host knows of it.
const SESSION: &str = "dev.hostler/session";
/// Of `_meta` of a listing: that processes are wanted; of a session in it: its processes and terminals.
const RESOURCES: &str = "dev.hostler/resources";

/// A session.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    /// Its channel.
    pub(super) uri: String,
    /// Its own chat's channel.
    pub(super) chat: Option<String>,
    /// The channels of all its chats.
    pub(super) chats: Vec<String>,
    /// As `hostler session ls --json` shows it.
    pub(super) value: Value,
    session: Session,
    pub(super) processes: Vec<Held>,
}

/// A process or terminal.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// Its channel.
    pub(super) uri: String,
    pub(super) process: Process,
}

impl Listed {
    /// Its id at the host.
    pub(super) fn id(&self) -> &str {
        &self.session.id
    }
}

impl Named for Listed {
    fn id(&self) -> &str {
        &self.session.id
    }
    fn name(&self) -> Option<&str> {
        self.session.name.as_deref()
    }
    fn rank(&self) -> (bool, u64) {
        self.session.rank()
    }
}

impl Named for Held {
    fn id(&self) -> &str {
        &self.process.id
    }
    fn name(&self) -> Option<&str> {
        self.process.name.as_deref()
    }
    fn rank(&self) -> (bool, u64) {
        self.process.rank()
    }
}

/// The part behind the scheme.
pub(super) fn name_of(uri: &str) -> &str {
    uri.split_once(":/").map_or(uri, |(_, name)| name)
}

fn listed(summary: SessionSummary) -> Listed {
    let of_meta = |key: &str| {
        summary
            .meta
            .as_ref()
            .and_then(|meta| meta.get(key))
            .cloned()
    };
    let value = of_meta(SESSION).unwrap_or_else(|| {
        // Of a host of another kind.
        let title = Some(&summary.title).filter(|title| !title.is_empty());
        let status = SessionStatus::from_bits(summary.status);
        json!({
            "id": name_of(&summary.resource),
            "name": title,
            "state": match status.contains(SessionStatus::InProgress) {
                true => "active",
                false => "idle",
            },
            "opened": milliseconds(&summary.created_at),
        })
    });
    let session = serde_json::from_value(value.clone()).unwrap_or_else(|_| Session {
        id: name_of(&summary.resource).to_owned(),
        name: None,
        state: String::new(),
        parent: None,
        opened: 0,
        contain: Value::Null,
        processes: Value::Null,
    });
    let held = of_meta(RESOURCES).and_then(|all| serde_json::from_value::<Vec<Value>>(all).ok());
    let held = held.into_iter().flatten().filter_map(|one| {
        let uri = one["channel"].as_str().map(str::to_owned);
        let process: Process = serde_json::from_value(one).ok()?;
        let uri = uri.unwrap_or_else(|| format!("{TERMINAL}{}", process.id));
        Some(Held { uri, process })
    });
    let chats = summary.chats.iter().flatten();
    Listed {
        processes: held.collect(),
        chats: chats.map(|chat| chat.resource.clone()).collect(),
        uri: summary.resource,
        chat: summary.default_chat,
        value,
        session,
    }
}

/// All sessions; with what they run, if that is wanted.
pub(super) async fn sessions(link: &mut Link, processes: bool) -> Result<Vec<Listed>> {
    let meta = processes
        .then(|| -> JsonObject { [(RESOURCES.to_owned(), true.into())].into_iter().collect() });
    let mut all = Vec::new();
    let mut cursor = None;
    loop {
        let params = ListSessionsParams {
            channel: ROOT_RESOURCE_URI.to_owned(),
            meta: meta.clone(),
            limit: None,
            cursor: cursor.take(),
        };
        let page: ListSessionsResult = link.request("listSessions", params).await?;
        all.extend(page.items.into_iter().map(listed));
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => return Ok(all),
        }
    }
}

/// The session that `text` means.
pub(super) fn session<'a>(all: &'a [Listed], text: &str) -> Result<&'a Listed> {
    let by_uri = |one: &&Listed| one.uri == text || name_of(&one.uri) == text;
    match all.iter().find(by_uri) {
        Some(one) => Ok(one),
        None => choose(all, text, "session"),
    }
}

/// The channel of the chat that `text` means: a session's own, or one of its others.
pub(super) fn chat(all: &[Listed], text: &str) -> Result<String> {
    let mut chats = all.iter().flat_map(|one| &one.chats);
    if let Some(chat) = chats.find(|uri| *uri == text || name_of(uri) == text) {
        return Ok(chat.clone());
    }
    let chat = session(all, text)?.chat.clone();
    chat.ok_or_else(|| Failure::Unclear(format!("session `{text}` has no conversation")))
}

/// The process that `text` means; `SESSION/PROCESS` is one of that session.
pub(super) fn process(all: &[Listed], text: &str) -> Result<Held> {
    let whole = |one: &&Held| one.uri == text;
    if let Some(one) = all.iter().flat_map(|one| &one.processes).find(whole) {
        return Ok(one.clone());
    }
    let (held, text) = match text.split_once('/') {
        Some((of, text)) => (of_session(all, session(all, of)?), text),
        None => (
            all.iter().flat_map(|one| one.processes.clone()).collect(),
            text,
        ),
    };
    choose(&held, text, "process").cloned()
}

/// The processes of a session, and those terminals that clients have made for it, which have sessions below it.
pub(super) fn of_session(all: &[Listed], session: &Listed) -> Vec<Held> {
    let own = |one: &&Listed| {
        one.uri == session.uri
            || one.chat.is_none() && one.session.parent.as_deref() == Some(session.id())
    };
    all.iter()
        .filter(own)
        .flat_map(|one| one.processes.clone())
        .collect()
}

/// A time of RFC 3339 in UTC as a Unix time in milliseconds; 0 where it is none.
fn milliseconds(text: &str) -> u64 {
    let number =
        |range: std::ops::Range<usize>| text.get(range).and_then(|part| part.parse::<i64>().ok());
    let read = || {
        let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
        let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
        // The civil calendar, with years that begin in March.
        let year = if month <= 2 { year - 1 } else { year };
        let era = year.div_euclid(400);
        let of_era = year - era * 400;
        let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
        u64::try_from((days * 86_400 + hour * 3600 + minute * 60 + second) * 1000).ok()
    };
    read().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_of_the_calendar() {
        assert_eq!(milliseconds("1970-01-01T00:00:00Z"), 0);
        assert_eq!(milliseconds("2000-02-29T00:00:00.000Z"), 951_782_400_000);
        assert_eq!(milliseconds("2024-12-31T23:59:59.123Z"), 1_735_689_599_000);
        assert_eq!(milliseconds("yesterday"), 0);
    }

    #[test]
    fn sessions_of_other_hosts_are_found_as_well() {
        let summary = json!({
            "resource": "ahp-session:/abcd", "provider": "x", "title": "mine", "status": 1,
            "createdAt": "2024-12-31T23:59:59Z", "modifiedAt": "2024-12-31T23:59:59Z",
            "defaultChat": "ahp-chat:/c", "chats": [{"resource": "ahp-chat:/c", "title": ""}]
        });
        let all = [listed(serde_json::from_value(summary).expect("a summary"))];
        for text in ["mine", "abcd", "ahp-session:/abcd", "abc"] {
            assert_eq!(session(&all, text).expect(text).uri, "ahp-session:/abcd");
            assert_eq!(chat(&all, text).expect(text), "ahp-chat:/c");
        }
        assert_eq!(chat(&all, "c").expect("by its own name"), "ahp-chat:/c");
        let none = session(&all, "zz").expect_err("none").to_string();
        assert_eq!(none, "there is no session `zz`");
    }
}
