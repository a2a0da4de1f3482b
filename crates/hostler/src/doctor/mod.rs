//! `hostler doctor`: how processes can be held together on this machine, what looks leaked by agents, and a way to end it.
//!
//! # How it judges
//! [`known`] is the table of programs, [`words`] how a process comes to its names, [`processes`] one look at all of them.
//! [`judge`] takes two looks, follows each known program to the root of its tree, and asks who has that: a parent that lives,
//! or somebody who holds an end of its streams ([`holders`], [`ends`], [`hostler_process::sockets`]). What is left is listed with its
//! [`evidence`]. [`leftovers`] are Hostler's own; [`mod@fix`] ends what was chosen.
//!
//! Nothing is changed without `--fix`, but for a cgroup that is made and removed, and `true` run in a pid namespace.

mod ends;
mod evidence;
mod fix;
mod holders;
mod judge;
mod known;
mod leftovers;
mod mechanism;
mod processes;
mod show;
mod words;

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hostler_keeper::proc::Proc;

use evidence::{Certainty, Verdict};
use hostler_run::say;
use judge::{Finding, Judge};
use leftovers::{Host, Leftover};
use processes::Look;

/// Between the two looks.
const LOOK: Duration = Duration::from_secs(1);

/// What `hostler doctor` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Write JSON (docs/doctor.md says what is in it)
    #[arg(long)]
    pub json: bool,
    /// Ask which of the leaked to end, and end those
    #[arg(long)]
    pub fix: bool,
    /// With --fix: do not ask, and end all that were likely leaked
    #[arg(long, requires = "fix")]
    pub yes: bool,
    /// List what is somebody's too, and whose
    #[arg(long)]
    pub all: bool,
    /// The host's state directory
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

/// All that was found.
pub(crate) struct Found {
    pub mechanism: mechanism::Mechanism,
    pub state_dir: Option<PathBuf>,
    pub host: Host,
    pub leaked: Vec<Finding>,
    pub owned: Vec<Finding>,
    pub leftovers: Vec<Leftover>,
}

/// What became of what was chosen.
#[derive(Default)]
pub(crate) struct Fixed {
    pub trees: Vec<fix::Outcome>,
    pub leftovers: Vec<(Leftover, io::Result<()>)>,
}

impl Fixed {
    /// Whether anything that was to be ended is still there.
    fn remains(&self) -> bool {
        let stays = |outcome: &fix::Outcome| {
            matches!(outcome.end, fix::End::Remains(_) | fix::End::Refused(_))
        };
        self.trees.iter().any(stays) || self.leftovers.iter().any(|(_, result)| result.is_err())
    }
}

/// Does it and returns what to exit with.
pub(crate) fn run(options: &Options) -> u8 {
    if options.fix && !options.yes && (options.json || !io::stdin().is_terminal()) {
        let why = if options.json {
            "--json leaves no way to ask"
        } else {
            "there is no terminal to ask at"
        };
        say(&format!("--fix needs --yes here: {why}"));
        return 2;
    }
    match examine(options) {
        Ok(status) => status,
        // Nobody reads on: of what was not told, nothing was done.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => u8::from(options.fix),
        Err(error) => {
            say(&format!("cannot look at the processes: {error}"));
            1
        }
    }
}

fn examine(options: &Options) -> io::Result<u8> {
    let proc = Proc::open()?;
    let before = Look::take(&proc)?;
    let looked = std::time::Instant::now();
    let mechanism = mechanism::find();
    std::thread::sleep(LOOK.saturating_sub(looked.elapsed()));
    let now = Look::take(&proc)?;
    let ends = ends::Ends::read(now.processes.keys().copied());
    let findings = judged(&proc, &before, &now, &ends);
    let (mut leaked, owned): (Vec<Finding>, Vec<Finding>) = findings
        .into_iter()
        .partition(|finding| matches!(finding.verdict, Verdict::Leaked { .. }));
    leaked.sort_by_key(|finding| {
        (
            std::cmp::Reverse(certainty(finding)),
            finding.root.start_time,
        )
    });
    let state_dir = options.state_dir.clone().or_else(leftovers::state_dir);
    let host = state_dir
        .as_deref()
        .map_or(Host::NoDirectory, leftovers::host);
    let found = Found {
        leftovers: leftovers_of(state_dir.as_deref(), &host, &ends),
        mechanism,
        state_dir,
        host,
        leaked,
        owned,
    };
    if !options.json {
        show::text(&found, options)?;
    }
    let mut fixed = None;
    if options.fix {
        let chosen = if options.yes {
            Some(likely(&found))
        } else {
            ask(&found)?
        };
        if let Some(chosen) = chosen {
            hostler_keeper::hook!("doctor.chosen");
            let outcome = fix(&proc, &found, &now, &chosen)?;
            if !options.json {
                show::fixed(&outcome)?;
            }
            fixed = Some(outcome);
        }
    }
    if options.json {
        show::json(&found, options, fixed.as_ref())?;
    }
    Ok(u8::from(fixed.is_some_and(|fixed| fixed.remains())))
}

fn judged(proc: &Proc, before: &Look, now: &Look, ends: &ends::Ends) -> Vec<Finding> {
    let judge = Judge {
        proc,
        before,
        now,
        ends,
        only: only(),
    };
    judge.findings()
}

/// The mark that all which is looked at must carry. For tests, which share the machine; in debug builds only.
fn only() -> Option<String> {
    if cfg!(debug_assertions) {
        std::env::var("HOSTLER_DOCTOR_ONLY_MARK").ok()
    } else {
        None
    }
}

fn leftovers_of(
    state_dir: Option<&std::path::Path>,
    host: &Host,
    ends: &ends::Ends,
) -> Vec<Leftover> {
    let tested = only().is_some();
    let root = if tested {
        hostler_keeper::cgroup::base()
    } else {
        mechanism::mounted()
    };
    let mut found = root.map_or_else(Vec::new, |root| leftovers::cgroups(&root, tested, ends));
    if let (Some(dir), Host::NotRunning { .. }) = (state_dir, host) {
        found.extend(leftovers::stale(dir, ends));
    }
    found
}

fn certainty(finding: &Finding) -> Certainty {
    match finding.verdict {
        Verdict::Leaked { certainty, .. } => certainty,
        Verdict::Owned(_) => Certainty::Possible,
    }
}

/// The numbers, from 1, of what was likely leaked, and of the leftovers.
fn likely(found: &Found) -> Vec<usize> {
    let trees = (1..).zip(&found.leaked);
    let trees = trees.filter(|(_, finding)| certainty(finding) == Certainty::Likely);
    let first = found.leaked.len() + 1;
    let leftovers = first..first + found.leftovers.len();
    trees.map(|(number, _)| number).chain(leftovers).collect()
}

/// Asks which to end. `None` when there is nothing, or nothing was chosen.
fn ask(found: &Found) -> io::Result<Option<Vec<usize>>> {
    let count = found.leaked.len() + found.leftovers.len();
    if count == 0 {
        return Ok(None);
    }
    loop {
        print!("End which? (1-{count}, as in 1,3-5; all; nothing for none) ");
        io::stdout().flush()?;
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        match choice(line.trim(), count) {
            Ok(chosen) => {
                let chosen = confirm(found, chosen)?;
                return Ok(Some(chosen).filter(|chosen| !chosen.is_empty()));
            }
            Err(wrong) => println!("`{wrong}` is none of the numbers 1 to {count}."),
        }
    }
}

/// Asks once more about what may be meant to run: a number or `all` is soon typed. Gives what is left.
fn confirm(found: &Found, mut chosen: Vec<usize>) -> io::Result<Vec<usize>> {
    let unsure = |number: &usize| {
        let finding = found.leaked.get(number.wrapping_sub(1));
        finding.is_some_and(|finding| certainty(finding) == Certainty::Possible)
    };
    let asked: Vec<String> = chosen
        .iter()
        .filter(|number| unsure(number))
        .map(usize::to_string)
        .collect();
    if asked.is_empty() {
        return Ok(chosen);
    }
    let which = asked.join(", ");
    print!("{which} may be meant to run. End that as well? (yes; anything else for no) ");
    io::stdout().flush()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    if line.trim() != "yes" {
        println!("Left alone: {which}.");
        chosen.retain(|number| !unsure(number));
    }
    Ok(chosen)
}

/// Reads `all`, or numbers and ranges up to `count`.
fn choice(text: &str, count: usize) -> Result<Vec<usize>, String> {
    if text == "all" {
        return Ok((1..=count).collect());
    }
    let mut chosen = Vec::new();
    for part in text.split([',', ' ']).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<usize>(), last.parse::<usize>()) {
            (Ok(first), Ok(last)) if 1 <= first && first <= last && last <= count => {
                chosen.extend(first..=last);
            }
            _ => return Err(processes::printable(part)),
        }
    }
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

fn fix(proc: &Proc, found: &Found, before: &Look, chosen: &[usize]) -> io::Result<Fixed> {
    let trees: Vec<&Finding> = (1..)
        .zip(&found.leaked)
        .filter(|(number, _)| chosen.contains(number))
        .map(|(_, finding)| finding)
        .collect();
    let mut fixed = Fixed::default();
    if !trees.is_empty() {
        fixed.trees = fix::end(proc, &trees, || {
            let now = Look::take(proc)?;
            let ends = ends::Ends::read(now.processes.keys().copied());
            Ok(judged(proc, before, &now, &ends))
        })?;
    }
    let leftovers = (found.leaked.len() + 1..).zip(&found.leftovers);
    for (_, leftover) in leftovers.filter(|(number, _)| chosen.contains(number)) {
        let result = leftovers::remove(leftover, found.state_dir.as_deref());
        fixed.leftovers.push((leftover.clone(), result));
    }
    Ok(fixed)
}

#[cfg(test)]
mod tests {
    use super::choice;

    #[test]
    fn choices() {
        assert_eq!(choice("", 9), Ok(vec![]));
        assert_eq!(choice("all", 3), Ok(vec![1, 2, 3]));
        assert_eq!(choice("1,3-5", 5), Ok(vec![1, 3, 4, 5]));
        assert_eq!(choice("5, 1 1", 5), Ok(vec![1, 5]));
        for text in ["0", "6", "3-1", "x", "1-", "-1", "1-6", "everything"] {
            assert!(choice(text, 5).is_err(), "{text}");
        }
    }
}
