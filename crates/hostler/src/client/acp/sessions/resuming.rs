//! Going on with another host, from exactly where the last one was.

use serde_json::{Value, json};

use super::{Book, OWN, Out, failed, request};

impl Book {
    /// The first messages over a new connection.
    pub(in super::super) fn again(&self) -> Vec<String> {
        let mut waiting = self.pending.values();
        if waiting.any(|one| one.method == "initialize") {
            return self.pending.values().map(|one| one.text.clone()).collect();
        }
        let params = self.initialize.iter();
        params
            .map(|params| request("\"hostler:initialize\"", "initialize", params))
            .collect()
    }

    pub(super) fn own_answer(&mut self, id: &str, succeeded: bool, text: &str) -> Vec<Out> {
        let what = id.trim_start_matches(OWN).trim_end_matches('"');
        if what == "initialize" {
            return self.resume();
        }
        if let Some(session) = what.strip_prefix("resume:") {
            return match succeeded {
                true => self.resumed(session),
                false => self.lost(session, text),
            };
        }
        if let Some(session) = what.strip_prefix("close:") {
            self.sessions.remove(session);
        }
        Vec::new()
    }

    /// The host is there: each session goes on where it was.
    fn resume(&mut self) -> Vec<Out> {
        let loading = |session: &str| {
            self.pending
                .values()
                .any(|one| one.method == "session/load" && one.session.as_deref() == Some(session))
        };
        let mut out = Vec::new();
        for (session, held) in &self.sessions {
            let own = json!({"after": held.after, "turns": held.turns.iter().map(|(turn, id)| {
                (turn.to_string(), serde_json::from_str(id).unwrap_or(Value::Null))
            }).collect::<serde_json::Map<_, _>>()});
            let mut params = json!({
                "sessionId": session, "cwd": "/", "mcpServers": [], "_meta": {"hostler": own}
            });
            if loading(session) {
                let first = self.pending.values().find(|one| {
                    one.method == "session/load" && one.session.as_deref() == Some(session)
                });
                if let Some(one) = first {
                    // One that was answered first is still to be.
                    let join = one.text.contains(r#""join":true"#);
                    params["_meta"]["hostler"]["join"] = join.into();
                    out.push(Out::ToHost(request(&one.id, "session/load", &params)));
                }
                continue;
            }
            let id = Value::from(format!("hostler:resume:{session}")).to_string();
            out.push(Out::ToHost(request(&id, "session/resume", &params)));
        }
        for one in self.pending.values() {
            let held = one.session.as_ref();
            if held.is_none_or(|session| !self.sessions.contains_key(session)) {
                out.push(Out::ToHost(one.text.clone()));
            }
        }
        out
    }

    /// The session is where it was: what did not come to the last host is sent again.
    fn resumed(&mut self, session: &str) -> Vec<Out> {
        let of_this = self
            .pending
            .values()
            .filter(|one| one.session.as_deref() == Some(session) && !one.is_turn);
        let mut out: Vec<Out> = of_this.map(|one| Out::ToHost(one.text.clone())).collect();
        if self
            .sessions
            .get(session)
            .is_some_and(|held| held.cancelled)
        {
            let params = json!({"sessionId": session});
            out.push(Out::ToHost(format!(
                r#"{{"jsonrpc":"2.0","method":"session/cancel","params":{params}}}"#
            )));
        }
        out
    }

    /// The session is gone.
    fn lost(&mut self, session: &str, text: &str) -> Vec<Out> {
        self.sessions.remove(session);
        let error: Value = serde_json::from_str(text).unwrap_or_default();
        let why = error["error"]["message"].as_str().unwrap_or("it is gone");
        let why = format!("session {session} did not outlive the host: {why}");
        let mut out = Vec::new();
        self.pending.retain(|_, one| {
            let of_this = one.session.as_deref() == Some(session);
            if of_this {
                out.push(failed(&one.id, &why));
            }
            !of_this
        });
        out
    }
}
