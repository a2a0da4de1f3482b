//! What `hostler run` tells about what it did: the report file, the lines of `-v`, the line on a limit.

use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use hostler_keeper::outcome::{EndReason, EndReport, ExitStatus};
use serde::Serialize;

use crate::options::Options;
use crate::say;

/// The most processes that one line names.
const NAMED_MAX: usize = 10;

/// The report file.
#[derive(Serialize)]
struct File<'a> {
    version: u32,
    command: Vec<String>,
    contain: &'a str,
    pid: u32,
    exit: Exit,
    ended_by: &'a str,
    wall_ms: f64,
    cpu_ms: f64,
    peak_memory_bytes: u64,
    left: Vec<Left>,
    remaining: u64,
}

/// The report file where nothing was run.
#[derive(Serialize)]
struct NotRun<'a> {
    version: u32,
    command: Vec<String>,
    error: &'a str,
    status: u8,
}

fn words(options: &Options) -> Vec<String> {
    let text = |word: &OsString| word.to_string_lossy().into_owned();
    options.command.iter().map(text).collect()
}

/// Writes a report that says why there was nothing to report on.
pub(crate) fn refusal(options: &Options, status: u8, error: &str) {
    let Some(path) = &options.report else { return };
    let report = NotRun {
        version: 1,
        command: words(options),
        error,
        status,
    };
    // Where it is the file that cannot be written, that has been said.
    if let Ok(text) = serde_json::to_string_pretty(&report) {
        let _ = std::fs::write(path, text + "\n");
    }
}

#[derive(Serialize)]
struct Exit {
    code: Option<u8>,
    signal: Option<i32>,
    status: u8,
}

#[derive(Serialize)]
struct Left {
    pid: u32,
    start_time: u64,
    command: String,
    how: &'static str,
    ms: f64,
}

/// All that is known once everything is over.
pub(crate) struct Summary<'a> {
    pub options: &'a Options,
    pub contain: &'a str,
    pub pid: u32,
    pub exit: ExitStatus,
    /// What hostler exits with.
    pub status: u8,
    pub end: &'a EndReport,
    /// Whether a signal that hostler was sent ended the command.
    pub by_signal: bool,
    pub wall: Duration,
}

impl Summary<'_> {
    fn ended_by(&self) -> &'static str {
        match self.end.reason {
            EndReason::MainExited if self.by_signal => "signal",
            EndReason::MainExited => "exit",
            EndReason::Request => "signal",
            EndReason::HostGone | EndReason::OwnerGone => "die_with",
            EndReason::Timeout => "timeout",
            EndReason::Idle => "idle_timeout",
            EndReason::Lifetime => "max_lifetime",
            EndReason::Memory { .. } => "memory",
            EndReason::Pids { .. } => "pids",
            EndReason::KeeperLost => "keeper_lost",
        }
    }

    /// What hostler did to the command and why, in one line; nothing if it ended by itself.
    pub(crate) fn cause(&self) -> Option<String> {
        let options = self.options;
        let name = options
            .command
            .first()
            .map(|name| name.to_string_lossy())
            .unwrap_or_default();
        let text = |time: &Option<crate::options::Time>| {
            time.as_ref().map(ToString::to_string).unwrap_or_default()
        };
        Some(match self.end.reason {
            EndReason::MainExited | EndReason::Request | EndReason::HostGone => return None,
            EndReason::OwnerGone => {
                format!("ended `{name}`: the process it was to die with is gone")
            }
            EndReason::Timeout => format!(
                "ended `{name}`: it ran for {} (--timeout)",
                text(&options.timeout)
            ),
            EndReason::Idle => format!(
                "ended `{name}`: quiet for {} (--idle-timeout)",
                text(&options.idle_timeout)
            ),
            EndReason::Lifetime => {
                format!(
                    "ended `{name}`: older than {} (--max-lifetime)",
                    text(&options.max_lifetime)
                )
            }
            EndReason::Memory {
                used,
                largest,
                held,
            } => {
                let limit = options
                    .memory
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                let holder = self.end.left.iter().find(|left| left.id == largest);
                let holder = holder.map_or_else(String::new, |left| {
                    format!(
                        ", {} of it held by {} (pid {})",
                        mebibytes(held),
                        left.command,
                        largest.pid
                    )
                });
                format!(
                    "killed `{name}`: over its memory limit of {limit}: {} in use{holder}",
                    mebibytes(used)
                )
            }
            EndReason::Pids { count } => {
                let limit = options.pids.unwrap_or_default();
                format!(
                    "ended `{name}`: over its limit of {limit} processes: {count} were there or asked for"
                )
            }
            EndReason::KeeperLost => {
                format!(
                    "killed `{name}`: its keeper was killed; {} processes went with it",
                    self.end.left.len()
                )
            }
        })
    }

    /// Tells what is to be told. `file` was opened before the command was started.
    pub(crate) fn tell(&self, file: Option<std::fs::File>) {
        if let Some(cause) = self.cause() {
            say(&cause);
        }
        if self.end.remaining > 0 {
            let stuck: Vec<String> = self
                .end
                .left
                .iter()
                .filter(|left| left.how.as_str() == "stuck")
                .map(|left| format!("{} (pid {})", left.command, left.id.pid))
                .take(NAMED_MAX)
                .collect();
            let others = if self.end.remaining > NAMED_MAX as u64 {
                ", …"
            } else {
                ""
            };
            say(&format!(
                "{} processes cannot be ended, and are tried again: {}{others}",
                self.end.remaining,
                stuck.join(", ")
            ));
        }
        if self.options.verbose {
            for left in &self.end.left {
                let ms = left.took.as_secs_f64() * 1000.0;
                say(&format!(
                    "left {} (pid {}): {} after {ms:.1} ms",
                    left.command,
                    left.id.pid,
                    left.how.as_str()
                ));
            }
            say(&format!(
                "status {}, {:.1} s, cpu {:.2} s, peak memory {}, remaining {}, held by {}",
                self.status,
                self.wall.as_secs_f64(),
                self.end.cpu.as_secs_f64(),
                mebibytes(self.end.peak_memory),
                self.end.remaining,
                self.contain,
            ));
        }
        if let Some(mut file) = file {
            let written = serde_json::to_vec_pretty(&self.file()).map_err(std::io::Error::from);
            if let Err(error) = written.and_then(|text| file.write_all(&text)) {
                say(&format!("cannot write the report: {error}"));
            }
        }
    }

    fn file(&self) -> File<'_> {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let (code, signal) = match self.exit {
            ExitStatus::Code(code) => (Some(code), None),
            ExitStatus::Signal { signal, .. } => (None, Some(signal)),
            ExitStatus::Lost => (None, None),
        };
        let left = self.end.left.iter().map(|left| Left {
            pid: left.id.pid,
            start_time: left.id.start_time,
            command: left.command.to_string(),
            how: left.how.as_str(),
            ms: ms(left.took),
        });
        File {
            version: 1,
            command: words(self.options),
            contain: self.contain,
            pid: self.pid,
            exit: Exit {
                code,
                signal,
                status: self.status,
            },
            ended_by: self.ended_by(),
            wall_ms: ms(self.wall),
            cpu_ms: ms(self.end.cpu),
            peak_memory_bytes: self.end.peak_memory,
            left: left.collect(),
            remaining: self.end.remaining,
        }
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
