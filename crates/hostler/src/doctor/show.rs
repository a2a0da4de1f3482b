//! How it is told: in lines for people, as JSON for programs.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde_json::{Value, json};

use super::evidence::Verdict;
use super::fix::{End, Outcome};
use super::judge::Finding;
use super::leftovers::Host;
use super::mechanism::{Limit, Mechanism};
use super::{Fixed, Found, Options, certainty};

/// A time in one or two units.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {:02} h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// An amount of memory.
pub(crate) fn bytes(count: u64) -> String {
    const KIB: f64 = 1024.0;
    let count = count as f64;
    if count < KIB {
        format!("{count} B")
    } else if count < KIB * KIB {
        format!("{:.0} KiB", count / KIB)
    } else if count < KIB * KIB * KIB {
        format!("{:.1} MiB", count / KIB / KIB)
    } else {
        format!("{:.2} GiB", count / KIB / KIB / KIB)
    }
}

/// How wide a command may be.
const WIDE: usize = 100;

struct Page {
    out: io::Stdout,
    bold: bool,
}

impl Page {
    fn new() -> Self {
        let out = io::stdout();
        let bold =
            out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { out, bold }
    }

    fn head(&mut self, text: &str) -> io::Result<()> {
        if self.bold {
            writeln!(self.out, "\x1b[1m{text}\x1b[0m")
        } else {
            writeln!(self.out, "{text}")
        }
    }

    fn row(&mut self, name: &str, text: impl Display) -> io::Result<()> {
        writeln!(self.out, "  {name:<12} {text}")
    }

    fn line(&mut self, text: impl Display) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }
}

/// Everything that was found, for people.
pub(crate) fn text(found: &Found, options: &Options) -> io::Result<()> {
    let mut page = Page::new();
    mechanism(&mut page, &found.mechanism)?;
    page.head("\nHost")?;
    let dir = found.state_dir.as_ref();
    let dir = dir.map_or_else(|| "nowhere".to_owned(), |dir| dir.display().to_string());
    page.row("state", dir)?;
    page.row("running", host_line(&found.host))?;
    leaked(&mut page, found)?;
    if options.all {
        page.head("\nSomebody's, and left alone")?;
        for one in &found.owned {
            tree(&mut page, "-", one)?;
        }
        if found.owned.is_empty() {
            page.line("  nothing")?;
        }
    }
    Ok(())
}

fn mechanism(page: &mut Page, mechanism: &Mechanism) -> io::Result<()> {
    page.head("Ownership on this machine")?;
    page.row(
        "in force",
        format_args!("{} (what --contain auto takes)", mechanism.in_force),
    )?;
    for way in &mechanism.ways {
        let state = if way.available { "yes" } else { "no" };
        page.row(
            way.name,
            format_args!("{state:<4} leaves open: {}", way.leaves_open),
        )?;
        if let Some(because) = &way.because {
            page.row("", format_args!("     because {because}"))?;
        }
    }
    let group = &mechanism.cgroup;
    if let Some(mounted) = &group.mounted {
        let mode = if group.hybrid { " (v1 beside it)" } else { "" };
        page.row("cgroup v2", format_args!("{}{mode}", mounted.display()))?;
        if let Some(own) = &group.own {
            let has = |there: bool, name: &str| format!("{}{name}", if there { "" } else { "no " });
            let controllers = if group.controllers.is_empty() {
                "none: limits are watched, not enforced".to_owned()
            } else {
                group.controllers.join(" ")
            };
            page.row("", format_args!("groups are made in {}", own.display()))?;
            page.row("", format_args!("controllers: {controllers}"))?;
            let files = [
                has(group.kill, "cgroup.kill"),
                has(group.freeze, "cgroup.freeze"),
            ];
            page.row("", files.join(", "))?;
        }
    }
    page.row("kernel", &mechanism.kernel.release)?;
    if mechanism.kernel.lacks.is_empty() {
        page.row("", "has all that hostler uses")?;
    }
    for lack in &mechanism.kernel.lacks {
        page.row("", format_args!("lacks {lack}"))?;
    }
    let limits: Vec<String> = mechanism.limits.iter().map(limit).collect();
    page.row("limits", limits.join(", "))?;
    if mechanism.hides_others {
        page.row("hidden", "/proc hides the processes of other users (hidepid): what they hold counts, but they are not named")?;
    }
    Ok(())
}

fn limit(limit: &Limit) -> String {
    let name = limit.name.replace('_', " ");
    let value = limit
        .value
        .map_or_else(|| "none".to_owned(), |value| value.to_string());
    match limit.used {
        Some(used) => format!("{name} {value} ({used} used)"),
        None => format!("{name} {value}"),
    }
}

fn host_line(host: &Host) -> String {
    match host {
        Host::NoDirectory => "no: there is no state directory".to_owned(),
        Host::NotRunning { before: None } => "no".to_owned(),
        Host::NotRunning { before: Some(pid) } => format!("no (the last one had pid {pid})"),
        Host::Running { pid, address } => {
            let pid = pid.map_or_else(|| "pid unknown".to_owned(), |pid| format!("pid {pid}"));
            let address = address.as_deref().map(|at| format!(", at {at}"));
            format!("yes: {pid}{}", address.unwrap_or_default())
        }
    }
}

fn leaked(page: &mut Page, found: &Found) -> io::Result<()> {
    page.head("\nLooks leaked")?;
    if found.leaked.is_empty() && found.leftovers.is_empty() {
        return page.line("  nothing");
    }
    for (number, one) in (1..).zip(&found.leaked) {
        tree(page, &number.to_string(), one)?;
    }
    for (number, one) in (found.leaked.len() + 1..).zip(&found.leftovers) {
        page.line(format_args!(
            "{number:>3}  {} of hostler: {}",
            one.what.as_str(),
            one.path.display()
        ))?;
        page.line(format_args!("       {}", one.reason))?;
    }
    let memory: u64 = found.leaked.iter().map(|one| one.memory.0).sum();
    if memory > 0 {
        page.line(format_args!("     in sum {}", bytes(memory)))?;
    }
    Ok(())
}

fn tree(page: &mut Page, number: &str, one: &Finding) -> io::Result<()> {
    let count = match one.tree.len() {
        1 => "1 process".to_owned(),
        count => format!("{count} processes"),
    };
    let measure = if one.memory.1 { "" } else { " (resident)" };
    let sure = match &one.verdict {
        Verdict::Leaked { certainty, .. } => certainty.as_str(),
        Verdict::Owned(_) => "owned",
    };
    page.line(format_args!(
        "{number:>3}  {sure:<8}  pid {:<8} {:>12}  {:>10}{measure}  {count}  {} ({})",
        one.root.pid,
        span(one.age),
        bytes(one.memory.0),
        one.known.label,
        one.known.kind.as_str(),
    ))?;
    let mut command: String = one.command.chars().take(WIDE).collect();
    if command.len() < one.command.len() {
        command.push('…');
    }
    page.line(format_args!("       {command}"))?;
    match &one.verdict {
        Verdict::Leaked { reasons, .. } => {
            for reason in reasons {
                page.line(format_args!("       - {reason}"))?;
            }
        }
        Verdict::Owned(owner) => page.line(format_args!("       - {owner}"))?,
    }
    Ok(())
}

fn end_line(outcome: &Outcome) -> String {
    let count = |how: &str| {
        outcome
            .processes
            .iter()
            .filter(|one| one.how == how)
            .count()
    };
    match &outcome.end {
        End::Ended => format!(
            "ended ({} terminated, {} killed), {} freed",
            count("terminated"),
            count("killed"),
            bytes(outcome.freed)
        ),
        End::Gone => "had ended by itself".to_owned(),
        End::Another => "left alone: another process has this pid now".to_owned(),
        End::Owned(owner) => format!("left alone: {owner}"),
        End::Remains(count) => {
            let rest = outcome
                .processes
                .iter()
                .filter(|one| one.how != "terminated" && one.how != "killed");
            let rest: Vec<String> = rest
                .map(|one| format!("{} (pid {}) {}", one.command, one.id.pid, one.how))
                .collect();
            format!("{count} processes are still there: {}", rest.join(", "))
        }
        End::Refused(why) => format!("cannot be opened: {why}"),
    }
}

/// What became of what was chosen, for people.
pub(crate) fn fixed(fixed: &Fixed) -> io::Result<()> {
    let mut page = Page::new();
    page.head("\nEnded")?;
    for outcome in &fixed.trees {
        page.row(&format!("pid {}", outcome.root.pid), end_line(outcome))?;
    }
    for (leftover, result) in &fixed.leftovers {
        let how = match result {
            Ok(()) => "removed".to_owned(),
            Err(error) => format!("not removed: {error}"),
        };
        page.row(
            leftover.what.as_str(),
            format_args!("{}: {how}", leftover.path.display()),
        )?;
    }
    if fixed.trees.is_empty() && fixed.leftovers.is_empty() {
        page.line("  nothing was likely enough")?;
    }
    let freed: u64 = fixed.trees.iter().map(|outcome| outcome.freed).sum();
    if freed > 0 {
        page.row("in sum", format_args!("{} freed", bytes(freed)))?;
    }
    Ok(())
}

/// Everything, for programs.
pub(crate) fn json(found: &Found, options: &Options, fixed: Option<&Fixed>) -> io::Result<()> {
    let numbered = |(number, one): (usize, &Finding)| {
        let mut value = finding(one);
        value["number"] = number.into();
        value
    };
    let leaked: Vec<Value> = (1..).zip(&found.leaked).map(numbered).collect();
    let leftovers: Vec<Value> = (found.leaked.len() + 1..)
        .zip(&found.leftovers)
        .map(|(number, one)| {
            json!({ "number": number, "what": one.what, "path": one.path, "reason": one.reason })
        })
        .collect();
    let mut value = json!({
        "version": 1,
        "mechanism": found.mechanism,
        "host": host(found),
        "leaked": leaked,
        "leftovers": leftovers,
    });
    if options.all {
        value["owned"] = found.owned.iter().map(finding).collect();
    }
    if let Some(fixed) = fixed {
        value["fixed"] = fixed_value(fixed);
    }
    serde_json::to_writer_pretty(io::stdout(), &value)?;
    writeln!(io::stdout())
}

fn host(found: &Found) -> Value {
    let (running, pid, address) = match &found.host {
        Host::Running { pid, address } => (true, *pid, address.clone()),
        Host::NotRunning { .. } | Host::NoDirectory => (false, None, None),
    };
    json!({ "state_dir": found.state_dir, "running": running, "pid": pid, "address": address })
}

fn finding(one: &Finding) -> Value {
    let mut value = json!({
        "pid": one.root.pid,
        "start_time": one.root.start_time,
        "name": one.known.label,
        "kind": one.known.kind,
        "agent_pid": one.agent,
        "command": one.command,
        "age_s": one.age.as_secs_f64(),
        "memory_bytes": one.memory.0,
        "memory_measure": if one.memory.1 { "pss" } else { "rss" },
        "pids": one.tree,
    });
    match &one.verdict {
        Verdict::Leaked { reasons, .. } => {
            value["certainty"] = json!(certainty(one));
            value["reasons"] = reasons
                .iter()
                .map(|reason| json!({ "code": reason.code(), "text": reason.to_string() }))
                .collect();
        }
        Verdict::Owned(owner) => {
            value["owner"] =
                json!({ "code": owner.code(), "pid": owner.pid(), "text": owner.to_string() });
        }
    }
    value
}

fn fixed_value(fixed: &Fixed) -> Value {
    let trees: Vec<Value> = fixed
        .trees
        .iter()
        .map(|outcome| {
            let state = match &outcome.end {
                End::Ended => "ended",
                End::Gone => "gone",
                End::Another => "another",
                End::Owned(_) => "owned",
                End::Remains(_) => "remains",
                End::Refused(_) => "refused",
            };
            let processes: Vec<Value> = outcome
                .processes
                .iter()
                .map(|one| json!({ "pid": one.id.pid, "start_time": one.id.start_time, "command": one.command, "how": one.how }))
                .collect();
            json!({
                "pid": outcome.root.pid,
                "start_time": outcome.root.start_time,
                "state": state,
                "text": end_line(outcome),
                "freed_bytes": outcome.freed,
                "processes": processes,
            })
        })
        .collect();
    let leftovers: Vec<Value> = fixed
        .leftovers
        .iter()
        .map(|(leftover, result)| {
            let error = result.as_ref().err().map(ToString::to_string);
            json!({ "what": leftover.what, "path": leftover.path, "removed": error.is_none(), "error": error })
        })
        .collect();
    json!({ "trees": trees, "leftovers": leftovers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes() {
        assert_eq!(span(Duration::from_millis(40)), "40 ms");
        assert_eq!(span(Duration::from_secs(59)), "59 s");
        assert_eq!(span(Duration::from_secs(3 * 86400 + 7300)), "3 d 02 h");
        assert_eq!(span(Duration::from_secs(7260)), "2 h 01 min");
        assert_eq!(bytes(12), "12 B");
        assert_eq!(bytes(3 << 20), "3.0 MiB");
        assert_eq!(bytes(5 << 29), "2.50 GiB");
    }
}
