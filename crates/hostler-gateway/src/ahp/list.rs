//! What a listing shows of sessions, and what of it has changed.

use ahp_types::commands::{ListSessionsParams, ListSessionsResult};
use ahp_types::notifications::PartialSessionSummary;
use ahp_types::state::{SessionChatSummary, SessionState, SessionStatus, SessionSummary};
use hostler_session::Session;

use super::automation::origin_of;
use super::error::AhpError;
use super::session::activity;
use crate::wire::iso_8601;

/// How many sessions a page has.
const PAGE: usize = 100;

/// What a listing shows of a session that stands like this.
pub(super) fn summary(uri: &str, session: &Session, state: &SessionState) -> SessionSummary {
    let opened = session.info().opened;
    let chats = state.chats.iter().map(|chat| SessionChatSummary {
        resource: chat.resource.clone(),
        title: chat.title.clone(),
        origin: chat.origin.clone(),
        interactivity: chat.interactivity,
        status: Some(chat.status),
        changes: None,
    });
    let flags = SessionStatus::IsRead | SessionStatus::IsArchived;
    let status = activity(state.chats.iter().map(|chat| chat.status));
    let modified = state
        .chats
        .iter()
        .map(|chat| chat.modified_at.clone())
        .max();
    SessionSummary {
        provider: state.provider.clone(),
        title: state.title.clone(),
        status: status | (state.status & flags.bits()),
        activity: state.activity.clone(),
        origin: origin_of(session),
        project: None,
        working_directories: state.working_directories.clone(),
        annotations: None,
        resource: uri.to_owned(),
        created_at: iso_8601(opened),
        modified_at: modified.unwrap_or_else(|| iso_8601(opened)),
        changes: None,
        meta: None,
        chats: Some(chats.collect()),
        default_chat: state.default_chat.clone(),
    }
}

/// What of it is different now; `None` where nothing is.
pub(super) fn changes(
    before: &SessionSummary,
    now: &SessionSummary,
) -> Option<PartialSessionSummary> {
    if before == now {
        return None;
    }
    fn other<T: PartialEq + Clone>(before: &T, now: &T) -> Option<T> {
        (before != now).then(|| now.clone())
    }
    Some(PartialSessionSummary {
        title: other(&before.title, &now.title),
        status: other(&before.status, &now.status),
        activity: other(&before.activity, &now.activity).flatten(),
        working_directories: other(&before.working_directories, &now.working_directories).flatten(),
        modified_at: other(&before.modified_at, &now.modified_at),
        chats: other(&before.chats, &now.chats).flatten(),
        default_chat: other(&before.default_chat, &now.default_chat).flatten(),
        ..PartialSessionSummary::default()
    })
}

/// A page of all of them, the last modified first. A cursor is the place of the last one of the page before.
pub(super) fn page(
    mut all: Vec<SessionSummary>,
    params: &ListSessionsParams,
) -> Result<ListSessionsResult, AhpError> {
    let key = |one: &SessionSummary| (one.modified_at.clone(), one.resource.clone());
    all.sort_by_key(|one| std::cmp::Reverse(key(one)));
    if let Some(cursor) = &params.cursor {
        let place = cursor.split_once(' ').filter(|(at, _)| at.ends_with('Z'));
        let (at, resource) =
            place.ok_or_else(|| AhpError::params("this cursor is not of this host"))?;
        let last = (at.to_owned(), resource.to_owned());
        all.retain(|one| key(one) < last);
    }
    let limit = match params.limit {
        None => PAGE,
        Some(limit) => usize::try_from(limit)
            .ok()
            .filter(|limit| *limit > 0)
            .ok_or_else(|| AhpError::params("`limit` is to be 1 or more"))?
            .min(10 * PAGE),
    };
    let more = all.len() > limit;
    all.truncate(limit);
    let last = all.last().filter(|_| more);
    Ok(ListSessionsResult {
        next_cursor: last.map(|last| format!("{} {}", last.modified_at, last.resource)),
        items: all,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(n: u64) -> SessionSummary {
        SessionSummary {
            provider: "shell".into(),
            title: String::new(),
            status: 1,
            activity: None,
            origin: None,
            project: None,
            working_directories: None,
            annotations: None,
            resource: format!("ahp-session:/{n}"),
            created_at: iso_8601(0),
            modified_at: iso_8601(n / 2),
            changes: None,
            meta: None,
            chats: None,
            default_chat: None,
        }
    }

    #[test]
    fn pages_hold_every_session_once() {
        let mut params = ListSessionsParams {
            channel: "ahp-root://".into(),
            meta: None,
            limit: Some(3),
            cursor: None,
        };
        let mut seen = Vec::new();
        loop {
            let page = page((0..10).map(one).collect(), &params).expect("a page");
            seen.extend(page.items.into_iter().map(|one| one.resource));
            params.cursor = page.next_cursor;
            if params.cursor.is_none() {
                break;
            }
        }
        let expected: Vec<String> = (0..10).rev().map(|n| format!("ahp-session:/{n}")).collect();
        assert_eq!(seen, expected);
        params.cursor = Some("7".into());
        assert!(page(Vec::new(), &params).is_err());
    }

    #[test]
    fn only_what_has_changed_is_told() {
        let before = one(1);
        let now = SessionSummary {
            title: "new".into(),
            ..one(1)
        };
        assert_eq!(changes(&before, &before), None);
        let told = changes(&before, &now).expect("a change");
        assert_eq!(
            serde_json::to_value(told).expect("JSON"),
            serde_json::json!({"title": "new"})
        );
    }
}
