//! What the tools do.

use std::time::Duration;

use futures_util::future::join_all;
use hyper::Method;
use hyper::body::Bytes;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::asked::{Keep, Kill, List, Log, Start, StopAll, Until, Wait, Write};
use super::ending::{self, How};
use super::held;
use super::server::{Mine, Server};
use super::told::{Seen, Told, list, members};
use super::watch::{self, Matches};
use crate::client::api::{Process, Session};
use crate::client::error::{Failure, Result};
use crate::client::host::{Host, part, understand};
use crate::client::signals::{self, Signal};
use crate::client::{exec, resolve};

/// How long a wait is where nothing is said, and at the most.
const WAIT: f64 = 30.0;
const LONGEST_WAIT: f64 = 600.0;
/// The longest grace.
const LONGEST_GRACE: f64 = 60.0;
/// How much of a log is given, in bytes, and at the most; and how many lines.
const LOG: usize = 16 << 10;
const MOST_LOG: usize = 256 << 10;
const LINES: usize = 100;
/// How much of the new output a poll shows, in bytes.
const NEW: u64 = 4 << 10;

impl Server {
    /// The process of this session that is meant; of two with one name, this server's own.
    async fn find(&self, host: &mut Host, text: &str) -> Result<Process> {
        let all = resolve::processes_of(host, &self.session).await?;
        let own: Vec<Process> = all
            .iter()
            .filter(|process| self.is_mine(&process.id))
            .cloned()
            .collect();
        match resolve::choose(&own, text, "process") {
            Ok(found) => Ok(found.clone()),
            Err(_) => resolve::choose(&all, text, "process").cloned(),
        }
    }

    async fn see(&self, host: &mut Host, process: &Process) -> Result<Seen> {
        let members = members(host, &process.id).await?;
        Ok(Seen::new(process, &members, self.is_mine(&process.id)))
    }

    pub(super) async fn start(&self, start: Start) -> Result<Told> {
        if start.command.trim().is_empty() {
            return Err(Failure::Usage("`command` is empty".into()));
        }
        let matches = Matches::new(&start.patterns)?;
        let mut host = self.host.another();
        let cwd = exec::directory(start.cwd.as_deref().unwrap_or(".").as_ref())?;
        if !cwd.is_dir() {
            let line = format!("`cwd`: {} is no directory", cwd.display());
            return Err(Failure::Usage(line));
        }
        let mut env = start.env;
        // What the agent finds by its own, its processes find too.
        for name in ["PATH", "HOME"] {
            if let Ok(value) = std::env::var(name) {
                env.entry(name.to_owned()).or_insert(value);
            }
        }
        let patterns: Vec<_> = start
            .patterns
            .iter()
            .map(|pattern| json!({ "pattern": pattern, "regex": true }))
            .collect();
        let body = json!({
            "argv": held::argv(&start.command)?, "cwd": cwd, "env": env, "name": start.name, "stdin": start.stdin,
            "patterns": patterns,
        });
        let process: Process = understand(exec::start(&mut host, &self.session, &body).await?)?;
        let matches = Some(matches);
        self.mine()
            .insert(process.id.clone(), Mine { shown: 0, matches });
        let seen = self.see(&mut host, &process).await?;
        Told::new(format!("Started. {}", seen.line()), &seen)
    }

    pub(super) async fn poll(&self, text: &str) -> Result<Told> {
        let mut host = self.host.another();
        let process = self.find(&mut host, text).await?;
        let seen = self.see(&mut host, &process).await?;
        let shown = self.mine().get(&process.id).map_or(0, |mine| mine.shown);
        // Of much, the end.
        let from = shown.max(process.output_bytes.saturating_sub(NEW));
        let new = watch::read(&mut host, &process.id, from, NEW as usize).await?;
        let matched = self.matched(&mut host, &process.id).await?;
        if let Some(mine) = self.mine().get_mut(&process.id) {
            mine.shown = mine.shown.max(new.next);
        }
        let left_out = new.offset.saturating_sub(shown);
        let mut text = seen.line();
        if !matched.is_empty() {
            text += &format!("\nmatched: {}", matched.join("\nmatched: "));
        }
        match (new.text.is_empty(), left_out) {
            (true, _) => text += "\n(no new output)",
            (false, 0) => text += &format!("\nnew output:\n{}", new.text),
            (false, n) => text += &format!("\nnew output ({n} bytes left out):\n{}", new.text),
        }
        let value = json!({
            "process": seen, "new_output": new.text, "left_out": left_out, "next": new.next, "matched": matched,
        });
        Told::new(text, value)
    }

    async fn matched(&self, host: &mut Host, id: &str) -> Result<Vec<String>> {
        let taken = self.mine().get_mut(id).and_then(|mine| mine.matches.take());
        let Some(mut matches) = taken else {
            return Ok(Vec::new());
        };
        let found = matches.look(host, id).await;
        if let Some(mine) = self.mine().get_mut(id) {
            mine.matches = Some(matches);
        }
        found
    }

    pub(super) async fn log(&self, log: Log) -> Result<Told> {
        let mut host = self.host.another();
        let process = self.find(&mut host, &log.process).await?;
        let limit = log.limit.unwrap_or(LOG).clamp(1, MOST_LOG);
        let (id, written) = (&process.id, process.output_bytes);
        let piece = match log.offset {
            Some(from) => watch::read(&mut host, id, from, limit).await?,
            None => {
                let lines = log.tail.unwrap_or(LINES);
                watch::tail(&mut host, id, written, lines, limit).await?
            }
        };
        let mut text = piece.text.clone();
        if text.is_empty() {
            text = "(nothing)\n".into();
        }
        if piece.gone > 0 {
            text = format!(
                "({} bytes before this are no longer kept)\n{text}",
                piece.gone
            );
        }
        if piece.more {
            text += &format!("\n(there is more: offset={})", piece.next);
        }
        Told::new(text, &piece)
    }

    pub(super) async fn wait(&self, wait: Wait) -> Result<Told> {
        let seconds = within("timeout", wait.timeout.unwrap_or(WAIT), LONGEST_WAIT)?;
        let until = Instant::now() + seconds;
        let mut host = self.host.another();
        let process = self.find(&mut host, &wait.process).await?;
        let id = process.id.clone();
        let (reached, line) = match (wait.until, &wait.pattern) {
            (Until::Output, None) => {
                return Err(Failure::Usage("until=output needs a `pattern`".into()));
            }
            (Until::Output, Some(pattern)) => {
                let line = watch::wait_for_line(&mut host, &id, pattern, until).await?;
                (line.is_some(), line)
            }
            (Until::Exit, _) => (exits(&mut host, &id, seconds).await?, None),
            (Until::Port, _) => (self.listens(&mut host, &process, until).await?, None),
        };
        let process: Process = host.read(&format!("/v1/processes/{}", part(&id))).await?;
        let seen = self.see(&mut host, &process).await?;
        let text = match (reached, &line) {
            (true, Some(line)) => format!("It has written: {line}\n{}", seen.line()),
            (true, None) => seen.line(),
            (false, _) if !seen.is_running() => format!("That will not be. {}", seen.line()),
            (false, _) => format!("Not within {} s. {}", seconds.as_secs_f64(), seen.line()),
        };
        Told::new(
            text,
            json!({ "reached": reached, "line": line, "process": seen }),
        )
    }

    async fn listens(&self, host: &mut Host, process: &Process, until: Instant) -> Result<bool> {
        let path = format!("/v1/processes/{}", part(&process.id));
        loop {
            let now: Process = host.read(&path).await?;
            let seen = self.see(host, &now).await?;
            if !seen.ports().is_empty() {
                return Ok(true);
            }
            // One that has ended may have left a server behind that is not up yet.
            let hopeless = !seen.is_running() && seen.is_gone();
            if hopeless || Instant::now() >= until {
                return Ok(false);
            }
            sleep(watch::PAUSE).await;
        }
    }

    pub(super) async fn write(&self, write: Write) -> Result<Told> {
        let mut host = self.host.another();
        let process = self.find(&mut host, &write.process).await?;
        let eof = if write.eof { "?eof=true" } else { "" };
        let path = format!("/v1/processes/{}/input{eof}", part(&process.id));
        let bytes = write.text.len();
        host.call(Method::POST, &path, Bytes::from(write.text))
            .await?;
        let closed = if write.eof {
            ", and closed its input"
        } else {
            ""
        };
        let text = format!("Wrote {bytes} bytes to {}{closed}.", process.id);
        Told::new(
            text,
            json!({ "id": process.id, "bytes": bytes, "eof": write.eof }),
        )
    }

    pub(super) async fn kill(&self, kill: Kill) -> Result<Told> {
        let signal = match &kill.signal {
            Some(word) => {
                word.parse::<Signal>()
                    .map_err(|allowed| Failure::Usage(format!("`{word}` is no signal: {allowed}")))?
                    .0
            }
            None => signals::TERM,
        };
        let grace = grace(kill.grace)?;
        let mut host = self.host.another();
        let process = self.find(&mut host, &kill.process).await?;
        if is_above(&process) {
            let id = &process.id;
            return Err(Failure::Unclear(format!("{id} is what this agent runs in")));
        }
        let stopped = ending::stop(&mut host, &process, How { signal, grace }).await?;
        Told::new(stopped.line(), &stopped)
    }

    pub(super) async fn list(&self, asked: List) -> Result<Told> {
        let mut host = self.host.another();
        let all = resolve::processes_of(&mut host, &self.session).await?;
        let mut seen = Vec::new();
        for process in all {
            if asked.all || self.is_mine(&process.id) {
                seen.push(self.see(&mut host, &process).await?);
            }
        }
        let lines: Vec<String> = seen.iter().map(Seen::line).collect();
        let text = match lines.is_empty() {
            true => "There are no background processes.".to_owned(),
            false => lines.join("\n"),
        };
        Told::new(text, json!({ "processes": seen }))
    }

    pub(super) async fn stop_all(&self, asked: StopAll) -> Result<Told> {
        let grace = grace(asked.grace)?;
        let mut host = self.host.another();
        let all = resolve::processes_of(&mut host, &self.session).await?;
        let own: Vec<Process> = all
            .into_iter()
            .filter(|process| self.is_mine(&process.id))
            .collect();
        let signal = signals::TERM;
        let ends = own.iter().map(async |process| {
            // Over a connection each: one that takes its time holds no other up.
            let mut host = self.host.another();
            ending::stop(&mut host, process, How { signal, grace })
                .await
                .map_err(|failure| format!("{}: {failure}", process.id))
        });
        let (mut stopped, mut failed) = (Vec::new(), Vec::new());
        for end in join_all(ends).await {
            match end {
                Ok(one) => stopped.push(one),
                Err(line) => failed.push(line),
            }
        }
        let mut lines: Vec<String> = stopped.iter().map(ending::Stopped::line).collect();
        lines.extend(failed.iter().cloned());
        if !failed.is_empty() {
            return Err(Failure::Unclear(list(&lines)));
        }
        let whole = stopped.iter().all(ending::Stopped::is_whole);
        let text = match lines.is_empty() {
            true => "There was nothing to stop.".to_owned(),
            false => lines.join("\n"),
        };
        Told::new(text, json!({ "all_stopped": whole, "processes": stopped }))
    }

    pub(super) async fn keep(&self, keep: Keep) -> Result<Told> {
        let mut host = self.host.another();
        let process = self.find(&mut host, &keep.process).await?;
        let path = format!("/v1/processes/{}/keep", part(&process.id));
        let body = json!({ "name": keep.name });
        let kept: Session = understand(host.json(Method::POST, &path, Some(&body)).await?)?;
        self.mine().remove(&process.id);
        let text = format!(
            "{} is kept: it is the session {} ({}) now and outlives this one.",
            process.id, kept.id, keep.name
        );
        Told::new(
            text,
            json!({ "id": process.id, "session": kept.id, "name": keep.name }),
        )
    }
}

/// Waits for its end; whether it came.
async fn exits(host: &mut Host, id: &str, seconds: Duration) -> Result<bool> {
    let path = format!(
        "/v1/processes/{}/wait?timeout={}",
        part(id),
        seconds.as_secs_f64()
    );
    match host.get(&path).await {
        Err(Failure::Refused { code, .. }) if code == "timeout" => Ok(false),
        ended => ended.map(|_| true),
    }
}

/// Seconds, if they are that.
fn within(name: &str, seconds: f64, most: f64) -> Result<Duration> {
    let wrong = || Failure::Usage(format!("`{name}` is to be 0 to {most} seconds"));
    if !(0.0..=most).contains(&seconds) {
        return Err(wrong());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

fn grace(seconds: Option<f64>) -> Result<Option<Duration>> {
    seconds
        .map(|seconds| within("grace", seconds, LONGEST_GRACE))
        .transpose()
}

/// Whether this server is under it.
fn is_above(process: &Process) -> bool {
    let Ok(proc) = hostler_keeper::proc::Proc::open() else {
        return false;
    };
    let mut pid = rustix::process::getpid();
    while let Ok(stat) = proc.stat(pid) {
        if Some(stat.id.pid) == process.pid && Some(stat.id.start_time) == process.start_time {
            return true;
        }
        match rustix::process::Pid::from_raw(stat.parent.cast_signed()) {
            Some(parent) => pid = parent,
            None => return false,
        }
    }
    false
}
