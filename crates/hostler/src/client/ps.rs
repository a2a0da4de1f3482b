//! `hostler ps`: the processes of sessions, counted by the kernel.

use std::collections::HashMap;

use clap::Args;
use serde_json::{Value, json};

use super::api::{Living, Process, Session};
use super::error::Result;
use super::host::{Host, part, understand};
use super::show::{self, Table, left, right};
use super::{Place, resolve, tree};

/// What `hostler ps` is told.
#[derive(Debug, Args)]
pub(crate) struct Ps {
    #[command(flatten)]
    place: Place,
    /// As a tree
    #[arg(short, long)]
    tree: bool,
    /// As JSON
    #[arg(long, conflicts_with = "tree")]
    json: bool,
    /// Only this session's
    session: Option<String>,
}

/// One session's part.
struct Part {
    session: Session,
    living: Vec<Living>,
    raw: Value,
}

/// Shows them.
pub(crate) async fn run(ps: &Ps) -> Result<u8> {
    let mut host = ps.place.host()?;
    let parts = match &ps.session {
        Some(text) => {
            let session = match host.read(&format!("/v1/sessions/{}", part(text))).await {
                Err(refusal) => {
                    let id = resolve::session(&mut host, text, refusal).await?;
                    host.read(&format!("/v1/sessions/{id}")).await?
                }
                Ok(session) => session,
            };
            vec![census(&mut host, session).await?]
        }
        None => {
            let sessions = host.read("/v1/sessions").await?;
            all(sessions, host.get("/v1/census").await?)?
        }
    };
    if ps.json {
        show::print_json(&flat(parts))?;
        return Ok(0);
    }
    let started: Vec<Process> = match &parts[..] {
        [] => Vec::new(),
        [one] => {
            let path = format!("/v1/sessions/{}/processes", one.session.id);
            host.read(&path).await?
        }
        _ => host.read("/v1/processes").await?,
    };
    let started: HashMap<&str, &Process> =
        started.iter().map(|one| (one.id.as_str(), one)).collect();
    let clock = Clock::new();
    if ps.tree {
        forest(&parts, &started, &clock)?;
    } else {
        list(&parts, &started, &clock)?;
    }
    Ok(0)
}

async fn census(host: &mut Host, session: Session) -> Result<Part> {
    let path = format!("/v1/sessions/{}/census", session.id);
    let raw = host.get(&path).await?;
    let living = understand(raw.clone())?;
    Ok(Part {
        session,
        living,
        raw,
    })
}

/// Each session with what is its.
fn all(sessions: Vec<Session>, census: Value) -> Result<Vec<Part>> {
    let mut parts: Vec<Part> = sessions
        .into_iter()
        .map(|session| Part {
            session,
            living: Vec::new(),
            raw: Value::Array(Vec::new()),
        })
        .collect();
    let at: HashMap<String, usize> = parts
        .iter()
        .enumerate()
        .map(|(at, part)| (part.session.id.clone(), at))
        .collect();
    for one in understand::<Vec<Value>>(census)? {
        let living: Living = understand(one.clone())?;
        // One that was opened since the sessions were listed is shown the next time.
        let Some(part) = at.get(&living.session).map(|at| &mut parts[*at]) else {
            continue;
        };
        part.living.push(living);
        if let Value::Array(list) = &mut part.raw {
            list.push(one);
        }
    }
    Ok(parts)
}

/// To which process each belongs: the nearest above it that is one itself.
fn owners(living: &[Living]) -> HashMap<u32, String> {
    let by_pid: HashMap<u32, &Living> = living.iter().map(|one| (one.pid, one)).collect();
    let mut owners = HashMap::new();
    for one in living {
        let mut at = Some(one);
        // No further than there are processes: parents may go round in a circle.
        for _ in 0..living.len() {
            let Some(above) = at else { break };
            if let Some(process) = &above.process {
                owners.insert(one.pid, process.clone());
                break;
            }
            at = by_pid.get(&above.parent).copied();
        }
    }
    owners
}

/// All in one list, each with its session, and with its arguments where this machine's kernel knows them.
fn flat(parts: Vec<Part>) -> Value {
    let mut all = Vec::new();
    for part in parts {
        let owners = owners(&part.living);
        let Value::Array(list) = part.raw else {
            continue;
        };
        for (mut one, living) in list.into_iter().zip(&part.living) {
            if let Value::Object(fields) = &mut one {
                fields.insert("argv".into(), json!(arguments(living)));
                fields.insert("session".into(), json!(part.session.id));
                fields.insert("belongs_to".into(), json!(owners.get(&living.pid)));
            }
            all.push(one);
        }
    }
    all.into()
}

fn list(parts: &[Part], started: &HashMap<&str, &Process>, clock: &Clock) -> Result<()> {
    let mut table = Table::new(&[
        left("SESSION"),
        left("PROCESS"),
        right("PID"),
        right("PARENT"),
        left("STATE"),
        right("RSS"),
        right("CPU"),
        right("AGE"),
        left("COMMAND"),
    ]);
    for part in parts {
        let owners = owners(&part.living);
        for one in &part.living {
            let owner = owners.get(&one.pid);
            table.row([
                called(&part.session),
                owner.cloned().unwrap_or_else(|| "-".into()),
                one.pid.to_string(),
                one.parent.to_string(),
                one.state.clone(),
                show::size(one.rss),
                show::span(one.cpu_ms as u64),
                clock.age(one),
                show::cut(&show::command(&command(one, started)), 500),
            ]);
        }
    }
    table.print()
}

fn forest(parts: &[Part], started: &HashMap<&str, &Process>, clock: &Clock) -> Result<()> {
    let mut table = Table::new(&[
        left("COMMAND"),
        right("PID"),
        left("PROCESS"),
        right("RSS"),
        right("CPU"),
        right("AGE"),
    ]);
    for part in parts {
        let name = called(&part.session);
        let none = String::new;
        let title = match name == part.session.id {
            true => name,
            false => format!("{name} ({})", part.session.id),
        };
        table.row([title, none(), none(), none(), none(), none()]);
        for (branch, one) in tree::draw(&part.living) {
            table.row([
                show::cut(&format!("  {branch}{}", short(command(one, started))), 60),
                one.pid.to_string(),
                one.process.clone().unwrap_or_default(),
                show::size(one.rss),
                show::span(one.cpu_ms as u64),
                clock.age(one),
            ]);
        }
    }
    table.print()
}

fn called(session: &Session) -> String {
    session.name.clone().unwrap_or_else(|| session.id.clone())
}

/// The command: as it was asked for where it is a process itself, else as the kernel has it.
fn command(one: &Living, started: &HashMap<&str, &Process>) -> Vec<String> {
    if let Some(words) = arguments(one) {
        return words;
    }
    let asked = one.process.as_deref().and_then(|id| started.get(id));
    match asked {
        Some(process) if process.pid == Some(one.pid) => process.argv.clone(),
        _ => vec![one.command.clone()],
    }
}

/// The command in a line in which there is not much room: programs by the names of their files, also the one that an agent
/// is behind `hostler run --`.
fn short(mut words: Vec<String>) -> String {
    if let [title] = &words[..]
        && title.contains(' ')
    {
        return show::plain(title);
    }
    let behind = match &words[..] {
        [_, run, rest @ ..] if run == "run" => rest.iter().position(|word| word == "--"),
        _ => None,
    };
    for at in [Some(0), behind.map(|at| at + 3)].into_iter().flatten() {
        if let Some(word) = words.get_mut(at)
            && let Some((_, file)) = word.rsplit_once('/')
            && !file.is_empty()
        {
            *word = file.to_owned();
        }
    }
    show::command(&words)
}

/// Its arguments, if it is the one that this machine knows by that pid.
fn arguments(one: &Living) -> Option<Vec<String>> {
    let words = std::fs::read(format!("/proc/{}/cmdline", one.pid)).ok()?;
    // Read after: when it is still the same one now, it was then.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", one.pid)).ok()?;
    let start: u64 = stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()?;
    if start != one.start_time {
        return None;
    }
    let words = words_of(&words);
    (!words.is_empty()).then_some(words)
}

/// The words of a `/proc/PID/cmdline`. A program that writes a title there, as servers do, pads it with NULs up to the end of
/// what its arguments were.
fn words_of(line: &[u8]) -> Vec<String> {
    let mut words: Vec<String> = line
        .strip_suffix(&[0])
        .unwrap_or(line)
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    if words[0].contains(' ') && words[1..].iter().all(String::is_empty) {
        words.truncate(1);
    }
    if words[0].is_empty() && words.len() == 1 {
        words.clear();
    }
    words
}

/// What start times are counted against.
struct Clock {
    /// Milliseconds since the boot.
    now: u64,
    ticks: u64,
}

impl Clock {
    fn new() -> Self {
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Self {
            now: boot.tv_sec as u64 * 1000 + boot.tv_nsec as u64 / 1_000_000,
            ticks: rustix::param::clock_ticks_per_second().max(1),
        }
    }

    fn age(&self, one: &Living) -> String {
        let then = one.start_time * 1000 / self.ticks;
        show::span(self.now.saturating_sub(then))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_room_names_programs_by_their_files() {
        let short = |text: &str| short(text.split(' ').map(str::to_owned).collect());
        assert_eq!(short("/opt/bin/node /opt/x.js"), "node /opt/x.js");
        assert_eq!(
            short("/opt/bin/hostler run -- /opt/bin/claude --acp"),
            "hostler run -- claude --acp"
        );
        assert_eq!(
            short("/opt/bin/hostler run --grace 1s -- /opt/bin/claude"),
            "hostler run --grace 1s -- claude"
        );
        assert_eq!(short("hostler: keeper of s-1"), "hostler: keeper of s-1");
        assert_eq!(short("/"), "/");
    }

    #[test]
    fn a_title_is_shown_as_it_was_written() {
        let shown = |line: &[u8]| super::short(super::words_of(line));
        assert_eq!(
            shown(b"hostler: keeper of /opt/bin/claude\0\0\0\0"),
            "hostler: keeper of /opt/bin/claude"
        );
        assert_eq!(shown(b"nginx: worker process"), "nginx: worker process");
        assert_eq!(shown(b"/bin/sh\0-c\0echo $1\0\0"), "sh -c 'echo $1' ''");
        assert_eq!(super::words_of(b""), Vec::<String>::new());
    }

    #[test]
    fn a_process_belongs_to_the_nearest_above_that_was_asked_for() {
        let living: Vec<Living> = serde_json::from_value(json!([
            {"session": "s-1", "pid": 2, "parent": 1, "process": "p-1"},
            {"session": "s-1", "pid": 3, "parent": 2},
            {"session": "s-1", "pid": 4, "parent": 3},
            {"session": "s-1", "pid": 5, "parent": 1},
            {"session": "s-1", "pid": 6, "parent": 7},
            {"session": "s-1", "pid": 7, "parent": 6}
        ]))
        .expect("a census");
        let owners = owners(&living);
        let owner = |pid: u32| owners.get(&pid).map(String::as_str);
        assert_eq!([2, 3, 4].map(owner), [Some("p-1"); 3]);
        assert_eq!([5, 6, 7].map(owner), [None; 3]);
    }
}
