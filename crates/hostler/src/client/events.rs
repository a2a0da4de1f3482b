//! `hostler log`: the event log.

use clap::Args;
use hostler_ledger::{EventFilter, IdError, Reader, Seq, SessionFilter, Which};
use http_body_util::{BodyExt, Full};
use hyper::Method;
use hyper::header::ACCEPT;
use serde_json::{Value, json};

use super::api::{Event, Session};
use super::error::{Failure, Result};
use super::host::{Host, part, request, understand};
use super::{Place, resolve, show};

/// How many are asked for at once.
const BLOCK: usize = 1000;

/// What `hostler log` is told.
#[derive(Debug, Args)]
pub(crate) struct Log {
    #[command(flatten)]
    place: Place,
    /// Go on with what happens
    #[arg(short, long)]
    follow: bool,
    /// Only what came after this number
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
    /// As JSON: a list, or with -f an object a line
    #[arg(long)]
    json: bool,
    /// Only what is about this session
    session: Option<String>,
}

/// Prints it.
pub(crate) async fn run(log: &Log) -> Result<u8> {
    let mut host = log.place.host()?;
    match host.get("/healthz").await {
        // What no host has is in the ledger all the same.
        Err(none @ Failure::NoHost(_)) if !log.follow => return recorded(log, &host, none),
        answer => drop(answer?),
    }
    let session = match &log.session {
        None => String::new(),
        Some(text) => {
            let id = match host
                .read::<Session>(&format!("/v1/sessions/{}", part(text)))
                .await
            {
                Ok(session) => session.id,
                Err(refusal) => resolve::session(&mut host, text, refusal).await?,
            };
            format!("&session={}", part(&id))
        }
    };
    if log.follow {
        return follow(&mut host, log, &session).await;
    }
    let mut all = Vec::new();
    let mut after = log.after;
    loop {
        let path = format!("/v1/events?after={after}&limit={BLOCK}{session}");
        let Value::Array(events) = host.get(&path).await? else {
            return Err(Failure::Nonsense("the events are no list".into()));
        };
        let last = events.last().and_then(|event| event["seq"].as_u64());
        let Some(last) = last.filter(|last| *last > after) else {
            break;
        };
        after = last;
        if log.json {
            all.extend(events);
        } else {
            for event in events {
                show::print(&line(understand(event)?))?;
            }
        }
    }
    if log.json {
        show::print_json(&all.into())?;
    }
    Ok(0)
}

/// Prints what the ledger has, where no host runs; `none` says so.
fn recorded(log: &Log, host: &Host, none: Failure) -> Result<u8> {
    let Some(dir) = host
        .state_dir()
        .filter(|dir| dir.join("ledger.db").exists())
    else {
        return Err(none);
    };
    let failed = |error: &dyn std::fmt::Display| Failure::Unclear(error.to_string());
    let ledger = Reader::open(dir).map_err(|error| failed(&error))?;
    let session = match &log.session {
        None => None,
        Some(text) => {
            let filter = SessionFilter {
                which: Which::All,
                ..SessionFilter::default()
            };
            let all = ledger.sessions(&filter).map_err(|error| failed(&error))?;
            let all: Vec<Session> = all
                .into_iter()
                .map(|row| understand(json!({"id": row.id, "name": row.name, "state": row.state, "opened": row.opened})))
                .collect::<Result<_>>()?;
            let id = &resolve::choose(&all, text, "session")?.id;
            Some(id.parse().map_err(|error: IdError| failed(&error))?)
        }
    };
    let filter = EventFilter {
        session,
        ..EventFilter::default()
    };
    let (mut all, mut after) = (Vec::new(), Seq(log.after));
    loop {
        let events = ledger
            .events(after, BLOCK, &filter)
            .map_err(|error| failed(&error))?;
        let Some(last) = events.last() else { break };
        after = last.seq;
        for event in events {
            let event = serde_json::to_value(hostler_gateway::wire::Event::from(event));
            let event = event.map_err(|error| failed(&error))?;
            match log.json {
                true => all.push(event),
                false => show::print(&line(understand(event)?))?,
            }
        }
    }
    if log.json {
        show::print_json(&all.into())?;
    }
    Ok(0)
}

async fn follow(host: &mut Host, log: &Log, session: &str) -> Result<u8> {
    let path = format!("/v1/events?after={}{session}", log.after);
    let request = request(Method::GET, &path)
        .header(ACCEPT, "text/event-stream")
        .body(Full::default())
        .map_err(|error| Failure::Nonsense(error.to_string()))?;
    let mut body = host.send(request).await?.into_body();
    let mut stream = Stream::default();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(|_| Failure::Gone)?.into_data() else {
            continue;
        };
        for text in stream.feed(&bytes) {
            if log.json {
                show::print(&format!("{text}\n"))?;
                continue;
            }
            let event = serde_json::from_str(&text);
            show::print(&line(
                event.map_err(|error| Failure::Nonsense(error.to_string()))?,
            ))?;
        }
    }
    Err(Failure::Gone)
}

/// An event stream, as browsers know it, as far as it carries one thing a message: `data:` lines, ended by an empty one.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    line: Vec<u8>,
    data: Vec<String>,
}

impl Stream {
    /// Takes what came, and gives back the messages that are whole by it.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut whole = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r');
            if line.is_empty() {
                if !self.data.is_empty() {
                    whole.push(std::mem::take(&mut self.data).join("\n"));
                }
            } else if let Some(data) = line.strip_prefix("data:") {
                self.data
                    .push(data.strip_prefix(' ').unwrap_or(data).into());
            }
        }
        whole
    }
}

/// An event in one line.
fn line(event: Event) -> String {
    let about = [&event.job, &event.session, &event.resource];
    let about: Vec<&str> = about.into_iter().flatten().map(String::as_str).collect();
    let about = match about.as_slice() {
        [] => "-".to_owned(),
        some => some.join("/"),
    };
    let mut text = format!(
        "{:>6}  {}  {:<20}  {about:<24}",
        event.seq,
        show::time(event.time),
        event.kind,
    );
    if !event.who.is_empty() {
        text.push_str(&format!("  {}", event.who));
        if !event.why.is_empty() {
            text.push_str(&format!(": {}", event.why));
        }
    }
    if !matches!(&event.detail, Value::Null) && event.detail != Value::Object(Default::default()) {
        text.push_str(&format!("  {}", event.detail));
    }
    let mut text = show::plain(text.trim_end());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_read_however_they_are_cut() {
        let text = ": hello\nid: 1\ndata: {\"a\":1}\n\nevent: x\r\ndata:{\"b\":\r\ndata: 2}\r\n\r\n\n\ndata: cut";
        for size in 1..text.len() {
            let mut stream = Stream::default();
            let all: Vec<String> = text
                .as_bytes()
                .chunks(size)
                .flat_map(|piece| stream.feed(piece))
                .collect();
            assert_eq!(all, ["{\"a\":1}", "{\"b\":\n2}"]);
        }
    }

    #[test]
    fn an_event_is_one_line() {
        let event = serde_json::from_str(
            r#"{"seq":7,"time":0,"kind":"session.closed","session":"s-1","resource":null,"who":"uid 0","why":"client\nasked","detail":{}}"#,
        );
        assert_eq!(
            event.map(line).ok().as_deref(),
            Some(
                "     7  1970-01-01 00:00:00.000Z  session.closed        s-1                       uid 0: client asked\n"
            )
        );
        let event = serde_json::from_str(
            r#"{"seq":8,"time":0,"kind":"lease.taken","session":"s-1","job":"j-1","who":"host","why":"","detail":{"key":"k"}}"#,
        );
        assert_eq!(
            event.map(line).ok().as_deref(),
            Some(
                "     8  1970-01-01 00:00:00.000Z  lease.taken           j-1/s-1                   host  {\"key\":\"k\"}\n"
            )
        );
    }
}
