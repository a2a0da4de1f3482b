//! Who could still use an orphan: through its streams, its connections, its terminal, its unit; and what the ends of those
//! that nobody holds say.

use std::collections::HashSet;

use super::ends::{Far, Open, Stream};
use super::evidence::{Channel, Owner, Reason};
use super::judge::{Above, Candidate, Judge, program};
use super::known::Kind;

/// Whether a tree can still be of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// What used it is gone: the kernel shows the loose end.
    Over,
    /// Nothing shows how anybody could use it.
    None,
    /// It might.
    Perhaps,
}

/// Words that show that a browser was started by a program, for one run.
const FOR_ONE_RUN: &[&str] = &[
    "--remote-debugging-port=0",
    "--remote-debugging-pipe",
    "--enable-automation",
    "-juggler-pipe",
    "--marionette",
];
const PROFILES: &[&str] = &[
    "playwright",
    "puppeteer",
    "org.chromium",
    "scoped_dir",
    "rust_mozprofile",
];

/// Whoever still holds the tree, if it isn't itself one of the `leaked`.
pub(crate) fn owner(
    judge: &Judge<'_>,
    one: &Candidate<'_>,
    leaked: &HashSet<u32>,
) -> Option<Owner> {
    terminal(judge, one, leaked)
        .or_else(|| unit(judge, one))
        .or_else(|| streams(judge, one, leaked))
        .or_else(|| connections(judge, one, leaked))
}

fn inside(one: &Candidate<'_>) -> HashSet<u32> {
    one.tree.iter().copied().collect()
}

fn terminal(judge: &Judge<'_>, one: &Candidate<'_>, leaked: &HashSet<u32>) -> Option<Owner> {
    let stat = &one.root.stat;
    let leader = judge.now.get(stat.session)?;
    let works = stat.terminal != 0
        && !one.tree.contains(&leader.pid())
        && !leaked.contains(&leader.pid())
        && leader.stat.session == leader.pid()
        && leader.stat.terminal == stat.terminal;
    works.then(|| Owner::Terminal {
        leader: leader.pid(),
        name: judge.name(leader.pid()),
    })
}

/// The unit of systemd that a process is in, if there is a manager.
fn unit_of(judge: &Judge<'_>, one: &Candidate<'_>) -> Option<String> {
    let managed = judge
        .now
        .get(1)
        .is_some_and(|init| program(init) == "systemd")
        || matches!(
            judge.above(one.root),
            Above::Orphan {
                reason: Reason::OrphanOfUserManager { .. },
                ..
            }
        );
    let path = one.root.unit.as_deref().filter(|_| managed)?;
    let unit = path
        .rsplit('/')
        .find(|part| part.ends_with(".service") || part.ends_with(".scope"))?;
    Some(unit.to_owned())
}

/// Scopes that come with a login, a terminal or a program of the desktop: what is orphaned there stays there.
fn is_a_place(unit: &str) -> bool {
    unit.ends_with(".scope")
        && [
            "session-",
            "app-",
            "vte-spawn-",
            "tmux-spawn-",
            "init",
            "user-",
        ]
        .iter()
        .any(|prefix| unit.starts_with(prefix))
        || unit.starts_with("user@")
}

fn unit(judge: &Judge<'_>, one: &Candidate<'_>) -> Option<Owner> {
    let name = unit_of(judge, one).filter(|unit| !is_a_place(unit))?;
    Some(Owner::Unit { name })
}

/// The scope of the tree, if it may have been started as that, or by others who live there.
pub(crate) fn scope(judge: &Judge<'_>, one: &Candidate<'_>) -> Option<String> {
    let scope = unit_of(judge, one).filter(|unit| is_a_place(unit) && unit != "init.scope")?;
    let lives = judge
        .now
        .processes
        .values()
        .any(|process| process.unit == one.root.unit && !one.tree.contains(&process.pid()));
    let login = scope.starts_with("session-") || scope.starts_with("user");
    (scope.starts_with("app-") || lives && !login).then_some(scope)
}

fn holder(judge: &Judge<'_>, far: &Far, channel: Channel, leaked: &HashSet<u32>) -> Option<Owner> {
    match far {
        Far::Held(pids) => {
            let pid = *pids.iter().find(|pid| !leaked.contains(pid))?;
            Some(Owner::Holder {
                pid,
                name: judge.name(pid),
                channel,
            })
        }
        Far::Unseen => Some(Owner::Unseen { channel }),
        Far::Nobody | Far::Unknown => None,
    }
}

/// The processes whose standard streams are the tree's: its root, and every known program in it.
fn speakers(judge: &Judge<'_>, one: &Candidate<'_>) -> Vec<u32> {
    let known = |pid: &&u32| {
        let process = judge.now.get(**pid);
        process
            .is_some_and(|process| process.names.wraps || process.names.known(|| false).is_some())
    };
    let mut found = vec![one.root.pid(), one.agent.pid()];
    found.extend(one.tree.iter().filter(known));
    found
}

fn streams(judge: &Judge<'_>, one: &Candidate<'_>, leaked: &HashSet<u32>) -> Option<Owner> {
    let tree = inside(one);
    for pid in speakers(judge, one) {
        for (number, channel) in [(0, Channel::Input), (1, Channel::Output)] {
            if let Stream::Channel(far) = judge.ends.stream(pid, number, &tree)
                && let Some(owner) = holder(judge, &far, channel, leaked)
            {
                return Some(owner);
            }
        }
        if one.known.kind == Kind::Browser {
            for number in [3, 4] {
                if let Stream::Channel(far) = judge.ends.stream(pid, number, &tree)
                    && let Some(owner) = holder(judge, &far, Channel::Pair(number), leaked)
                {
                    return Some(owner);
                }
            }
        }
    }
    None
}

fn connections(judge: &Judge<'_>, one: &Candidate<'_>, leaked: &HashSet<u32>) -> Option<Owner> {
    let tree = inside(one);
    for pid in &one.tree {
        for (number, open) in judge.ends.of(*pid) {
            if let Open::Socket(inode) = open
                && let Some(far) = judge.ends.pair(*pid, *inode, &tree)
                && let Some(owner) = holder(judge, &far, Channel::Pair(*number), leaked)
            {
                return Some(owner);
            }
        }
    }
    let (_, far) = judge.ends.network(one.root.pid(), &tree);
    holder(judge, &far, Channel::Connection, leaked)
}

/// Adds what the tree's streams and connections say, and tells whether it can still be of use.
pub(crate) fn speak(judge: &Judge<'_>, one: &Candidate<'_>, reasons: &mut Vec<Reason>) -> Use {
    let tree = inside(one);
    let agent = one.agent.pid();
    let input = judge.ends.stream(agent, 0, &tree);
    let output = judge.ends.stream(agent, 1, &tree);
    // A holder that is left now is leaked itself.
    let over = |stream: &Stream| matches!(stream, Stream::Channel(Far::Nobody | Far::Held(_)));
    let (listens, _) = judge.ends.network(one.root.pid(), &tree);
    let serves = !listens.is_empty() || one.tree.iter().any(|pid| judge.ends.listens(*pid));
    let mut state = Use::Perhaps;
    if over(&input) {
        reasons.push(Reason::InputEnded);
    }
    if over(&output) {
        reasons.push(Reason::OutputEnded);
    }
    match one.known.kind {
        kind if kind.lives_by_input() => {
            if over(&input) {
                state = Use::Over;
            } else if matches!(
                input,
                Stream::Closed | Stream::Null | Stream::File | Stream::Terminal
            ) && !serves
            {
                reasons.push(Reason::NoInput);
                if kind != Kind::LanguageServer {
                    state = Use::None;
                }
            }
        }
        Kind::Browser => {
            let driver = [3, 4]
                .into_iter()
                .find(|fd| over(&judge.ends.stream(agent, *fd, &tree)));
            if let Some(fd) = driver {
                reasons.push(Reason::DriverGone { fd });
                state = Use::Over;
            }
            if let Some(word) = one.agent.args.iter().find(|word| is_for_one_run(word)) {
                reasons.push(Reason::ForOneRun {
                    word: super::processes::printable(word),
                });
                if state == Use::Perhaps {
                    state = Use::None;
                }
            }
        }
        Kind::BrowserPart if !serves => state = if over(&input) { Use::Over } else { Use::None },
        _ => {}
    }
    if serves {
        let address = listens
            .first()
            .cloned()
            .unwrap_or_else(|| "a Unix socket".to_owned());
        reasons.push(Reason::NoClient { address });
    }
    state
}

fn is_for_one_run(word: &str) -> bool {
    FOR_ONE_RUN.contains(&word)
        || word
            .strip_prefix("--user-data-dir=")
            .is_some_and(|dir| PROFILES.iter().any(|profile| dir.contains(profile)))
}
