//! The options of `hostler run`.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

/// The grace where none is given.
const GRACE: &str = "5s";

/// Run a command, and leave nothing of it behind when it ends
#[derive(Debug, PartialEq, Args)]
pub struct Options {
    /// Time between SIGTERM and SIGKILL for what is ended: 500ms, 5s, 2m, 1h
    #[arg(long, value_name = "TIME", default_value = GRACE)]
    pub grace: Time,
    /// Most memory that the whole tree may use: 200M, 2G, or bytes
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Size>,
    /// Most processes that the tree may have (threads count too, where the kernel enforces it)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub pids: Option<u64>,
    /// Most CPUs that the tree may use: 2, 0.5
    #[arg(long, value_name = "N")]
    pub cpu: Option<Cpus>,
    /// End the command after so long
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<Time>,
    /// End the command when nothing in its tree has read, written, started or computed for so long (send and recv on
    /// sockets don't count)
    #[arg(long, value_name = "TIME")]
    pub idle_timeout: Option<Time>,
    /// End the command after so long at the next quiet second (at the latest a tenth, at most a minute, after)
    #[arg(long, value_name = "TIME")]
    pub max_lifetime: Option<Time>,
    /// End the tree when this process dies, or `none`; by default the one that started hostler
    #[arg(long, value_name = "PID")]
    pub die_with: Option<Owner>,
    /// Wait for what the command leaves behind, rather than end it
    #[arg(long)]
    pub keep_children: bool,
    /// How to hold the tree together; `auto` is the strongest that changes nothing for the command
    #[arg(long, value_enum, default_value_t = Containment::Auto)]
    pub contain: Containment,
    /// Write a report to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Say on stderr what was left and how it went, one line a process
    #[arg(short, long)]
    pub verbose: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

impl Options {
    /// What `run -- COMMAND...` means, if the words are that: the usual way to start, which takes no parser. (To make and
    /// run one would be a tenth of what hostler adds to a short command.)
    pub fn plain(mut words: impl Iterator<Item = OsString>) -> Option<Self> {
        if words.next()? != "run" || words.next()? != "--" {
            return None;
        }
        let command: Vec<OsString> = words.collect();
        (!command.is_empty()).then_some(())?;
        Some(Self {
            grace: GRACE.parse().ok()?,
            memory: None,
            pids: None,
            cpu: None,
            timeout: None,
            idle_timeout: None,
            max_lifetime: None,
            die_with: None,
            keep_children: false,
            contain: Containment::Auto,
            report: None,
            verbose: false,
            command,
        })
    }
}

/// How to hold the tree together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Containment {
    /// A cgroup where one can be made, else by parentage
    Auto,
    /// By parentage alone
    Tree,
    /// By parentage and a cgroup
    Cgroup,
    /// In a pid namespace: the kernel ends all, whoever is killed; the command sees other pids
    Pidns,
}

/// Whose death ends the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// It lives on until its command has ended
    Nobody,
    /// The one with this pid
    Process(rustix::process::Pid),
}

impl FromStr for Owner {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self::Nobody);
        }
        let pid = text
            .parse()
            .ok()
            .filter(|pid| *pid > 0)
            .and_then(rustix::process::Pid::from_raw);
        pid.map(Self::Process)
            .ok_or("a process id or `none` is allowed")
    }
}

/// A span of time, and how it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Time {
    /// The span itself.
    pub span: Duration,
    text: String,
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Time {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const ALLOWED: &str = "a number with ms, s, m, h or d is allowed: 500ms, 5s, 2m";
        let (number, unit) = split_unit(text);
        let seconds = match unit {
            "ms" => 0.001,
            "" | "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return Err(ALLOWED),
        };
        let span = amount(number)
            .and_then(|n| Duration::try_from_secs_f64(n * seconds).ok())
            .ok_or(ALLOWED)?;
        // A century: so that no sum of times can overflow.
        if span > Duration::from_secs(100 * 365 * 86400) {
            return Err("at most a hundred years are allowed");
        }
        Ok(Self {
            span,
            text: text.to_owned(),
        })
    }
}

/// An amount of memory, and how it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Size {
    /// In bytes.
    pub bytes: u64,
    text: String,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const ALLOWED: &str = "a number above 0, with K, M, G or T, is allowed: 200M, 1.5G";
        let (number, unit) = split_unit(text);
        let shift = match unit.trim_end_matches("iB").trim_end_matches('B') {
            "" => 0,
            "k" | "K" => 10,
            "M" => 20,
            "G" => 30,
            "T" => 40,
            _ => return Err(ALLOWED),
        };
        let bytes = amount(number).ok_or(ALLOWED)? * (1u64 << shift) as f64;
        // Beyond 2^53 the number is no longer exact, nor any machine's.
        if !(1.0..=9e15).contains(&bytes) {
            return Err(ALLOWED);
        }
        Ok(Self {
            bytes: bytes as u64,
            text: text.to_owned(),
        })
    }
}

/// A number of CPUs, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus {
    /// In thousandths of one.
    pub millis: u64,
}

impl FromStr for Cpus {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let count = amount(text).filter(|count| (0.001..=100_000.0).contains(count));
        let count = count.ok_or("a number of CPUs, at least 0.001, is allowed: 2, 0.5")?;
        Ok(Self {
            millis: (count * 1000.0).round() as u64,
        })
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| c.is_ascii_alphabetic())
            .unwrap_or(text.len()),
    )
}

/// A plain decimal number: digits, and a point between digits.
fn amount(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && text.starts_with(|c: char| c.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|value: &f64| plain && value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_command_is_read_as_the_parser_would() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            options: Options,
        }
        let plain = |words: &[&str]| Options::plain(words.iter().map(|word| OsString::from(*word)));
        for command in [
            &["true"][..],
            &["sh", "-c", "--", "run"],
            &["--", "-x"],
            &[""],
        ] {
            let words = [&["run", "--"], command].concat();
            let parsed = <Line as clap::Parser>::try_parse_from(&words).map(|line| line.options);
            assert_eq!(plain(&words), parsed.ok(), "{words:?}");
        }
        for words in [
            &["run", "--"][..],
            &["run", "true"],
            &["ls", "--", "x"],
            &[],
        ] {
            assert_eq!(plain(words), None);
        }
    }

    #[test]
    fn times() {
        for (text, ms) in [
            ("500ms", 500),
            ("5s", 5000),
            ("5", 5000),
            ("2m", 120_000),
            ("1.5s", 1500),
            ("0", 0),
        ] {
            assert_eq!(
                text.parse::<Time>().map(|time| time.span),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for text in [
            "", "s", "-1", "5 s", "1e9", "5x", "inf", "nan", "101000d", "1.2.3",
        ] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1", 1),
            ("200M", 200 << 20),
            ("1.5G", 3 << 29),
            ("2GiB", 2 << 30),
            ("4k", 4096),
        ] {
            assert_eq!(
                text.parse::<Size>().map(|size| size.bytes),
                Ok(bytes),
                "{text}"
            );
        }
        for text in ["0", "", "M", "-5", "5X", "lots", "99999999999999999999G"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn cpus() {
        assert_eq!("0.5".parse(), Ok(Cpus { millis: 500 }));
        for text in ["0", "nan", "-1", "fast", ""] {
            assert!(text.parse::<Cpus>().is_err(), "{text}");
        }
    }
}
