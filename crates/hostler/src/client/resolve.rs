//! Which session or process is meant: by id, by name, or by the start of an id.

use super::api::{Process, Session};
use super::error::{Failure, Result};
use super::host::{Host, part};

/// Something with an id and perhaps a name.
pub(crate) trait Named {
    /// Its id.
    fn id(&self) -> &str;
    /// Its name.
    fn name(&self) -> Option<&str>;
    /// Which of two with the same name is meant: the greater.
    fn rank(&self) -> (bool, u64);
}

impl Named for Session {
    fn id(&self) -> &str {
        &self.id
    }
    fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
    fn rank(&self) -> (bool, u64) {
        (!matches!(self.state.as_str(), "closed"), self.opened)
    }
}

impl Named for Process {
    fn id(&self) -> &str {
        &self.id
    }
    fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
    fn rank(&self) -> (bool, u64) {
        (!self.has_ended(), self.started.unwrap_or(0))
    }
}

/// The one that `text` means: its id; its name, where the living go before the ended and the new before the old; or the
/// start of its id, with or without the letter, if no other's starts so.
pub(crate) fn choose<'a, T: Named>(all: &'a [T], text: &str, kind: &str) -> Result<&'a T> {
    let unknown = || Failure::Unclear(format!("there is no {kind} `{text}`"));
    if text.is_empty() {
        return Err(unknown());
    }
    if let Some(one) = all.iter().find(|one| one.id() == text) {
        return Ok(one);
    }
    let named = all.iter().filter(|one| one.name() == Some(text));
    if let Some(one) = named.max_by_key(|one| one.rank()) {
        return Ok(one);
    }
    let starts = |id: &str| {
        let bare = id.split_once('-').map_or(id, |(_, bare)| bare);
        id.starts_with(text) && text.len() > 2 || bare.starts_with(text)
    };
    let found: Vec<&T> = all.iter().filter(|one| starts(one.id())).collect();
    match found[..] {
        [] => Err(unknown()),
        [one] => Ok(one),
        _ => {
            let ids: Vec<&str> = found.iter().take(4).map(|one| one.id()).collect();
            let more = if found.len() > 4 { ", …" } else { "" };
            Err(Failure::Unclear(format!(
                "`{text}` could be {} of them: {}{more}",
                found.len(),
                ids.join(", ")
            )))
        }
    }
}

/// The id of a session, when the host did not know `text` as it is. `refusal` is what it said; given back where nothing else
/// is meant.
pub(crate) async fn session(host: &mut Host, text: &str, refusal: Failure) -> Result<String> {
    if !refusal.is_not_found() {
        return Err(refusal);
    }
    let open: Vec<Session> = host.read("/v1/sessions").await?;
    let found = match choose(&open, text, "session") {
        Ok(one) => one.id.clone(),
        Err(Failure::Unclear(line)) if !line.starts_with("there is no") => {
            return Err(Failure::Unclear(line));
        }
        Err(_) => {
            let all: Vec<Session> = host.read("/v1/sessions?all=true").await?;
            let one = choose(&all, text, "session")?;
            if one.id == text && one.state == "closed" {
                return Err(Failure::Unclear(format!("session {text} has closed")));
            }
            one.id.clone()
        }
    };
    if found == text {
        return Err(refusal);
    }
    Ok(found)
}

/// The process that `text` means; `SESSION/PROCESS` is one of that session.
pub(crate) async fn process(host: &mut Host, text: &str) -> Result<Process> {
    if let Some((session_text, text)) = text.split_once('/') {
        let all = processes_of(host, session_text).await?;
        return choose(&all, text, "process").cloned();
    }
    if looks_whole(text) {
        match host.read(&format!("/v1/processes/{}", part(text))).await {
            Err(refusal) if refusal.is_not_found() => {}
            answer => return answer,
        }
    }
    let all: Vec<Process> = host.read("/v1/processes").await?;
    choose(&all, text, "process").cloned()
}

/// The processes of the session that `text` means.
pub(crate) async fn processes_of(host: &mut Host, text: &str) -> Result<Vec<Process>> {
    let path = |text: &str| format!("/v1/sessions/{}/processes", part(text));
    match host.read(&path(text)).await {
        Err(refusal) => {
            let id = session(host, text, refusal).await?;
            host.read(&path(&id)).await
        }
        done => done,
    }
}

/// Whether it has the form of a whole id of a process.
fn looks_whole(text: &str) -> bool {
    matches!(text.as_bytes(), [letter, b'-', rest @ ..]
        if *letter != b's' && letter.is_ascii_lowercase() && rest.len() >= 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn processes() -> Vec<Process> {
        let one = |id: &str, name: Option<&str>, state: &str, started: u64| {
            serde_json::from_value(json!({"id": id, "session": "s-1", "name": name, "state": state, "started": started}))
                .expect("a process")
        };
        vec![
            one("p-aaaa000001", Some("dev"), "exited", 1),
            one("p-aaab000002", Some("dev"), "running", 2),
            one("t-bbbb000003", None, "running", 3),
            one("p-cccc000004", Some("dev"), "exited", 9),
            one("p-dddd000005", Some("aaaa"), "exited", 9),
        ]
    }

    fn chosen(text: &str) -> std::result::Result<String, String> {
        let all = processes();
        choose(&all, text, "process")
            .map(|one| one.id.clone())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn ids_names_and_starts_of_ids() {
        assert_eq!(chosen("t-bbbb000003").as_deref(), Ok("t-bbbb000003"));
        assert_eq!(chosen("dev").as_deref(), Ok("p-aaab000002"), "the living");
        assert_eq!(chosen("p-aaab").as_deref(), Ok("p-aaab000002"));
        assert_eq!(chosen("bb").as_deref(), Ok("t-bbbb000003"));
        assert_eq!(
            chosen("aaaa").as_deref(),
            Ok("p-dddd000005"),
            "a name goes before"
        );
    }

    #[test]
    fn what_is_unclear_is_refused() {
        assert_eq!(
            chosen("aaa"),
            Err("`aaa` could be 2 of them: p-aaaa000001, p-aaab000002".into())
        );
        for text in ["", "zz", "p-", "p", "s-1"] {
            let error = chosen(text).expect_err(text);
            assert!(error.contains("there is no process"), "{text}: {error}");
        }
    }
}
