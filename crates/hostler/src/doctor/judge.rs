//! From two looks to a verdict on each tree of known programs.
//!
//! A known program is followed upwards, through the wrappers that only started it and other known programs, to the *root*
//! of its tree. A root whose parent lives, and is no reaper of orphans, is that parent's. Of an orphan it is asked who could
//! still use it: whoever holds the other end of its streams, a terminal, a service manager. Those who hold it count only if
//! they are not leaked themselves, so that question is asked until the answers stay the same.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use hostler_keeper::identity::ProcessId;
use hostler_keeper::proc::Proc;

use super::ends::Ends;
use super::evidence::{Certainty, Owner, Proof, Reason, Verdict};
use super::holders;
use super::known::{INITS, Kind, Known, REAPERS, fits};
use super::leftovers::{lives, owner_in_name};
use super::processes::{Look, Process, memory, started};
use super::words::{SURVIVOR, WORK};

/// How many of the same program, doing nothing, one parent may have.
const PILE: usize = 8;
/// What is started so soon after the first process is its main program.
const WITH_INIT: Duration = Duration::from_secs(2);

/// A tree with a known program in it.
#[derive(Debug)]
pub(crate) struct Finding {
    /// The highest process of it.
    pub root: ProcessId,
    /// The known program in it.
    pub known: &'static Known,
    /// That program's process.
    pub agent: u32,
    pub command: String,
    pub age: Duration,
    /// In bytes, and whether it is the proportional measure.
    pub memory: (u64, bool),
    /// All of its processes, the root first.
    pub tree: Vec<u32>,
    pub verdict: Verdict,
}

/// Who has an orphan, or that it is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Above {
    Living,
    Orphan { reason: Reason, proven: bool },
    Outside,
}

/// Looks from above on what [`Look`] and [`Ends`] have found.
pub(crate) struct Judge<'a> {
    pub proc: &'a Proc,
    pub before: &'a Look,
    pub now: &'a Look,
    pub ends: &'a Ends,
    /// Only trees that carry this; for tests.
    pub only: Option<String>,
}

/// A root and what it was found by.
pub(crate) struct Candidate<'a> {
    pub root: &'a Process,
    pub agent: &'a Process,
    pub known: &'static Known,
    pub tree: Vec<u32>,
}

impl<'a> Judge<'a> {
    /// Every tree of known programs, with a verdict.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let candidates = self.candidates();
        let piles = self.piles(&candidates);
        let mut verdicts: BTreeMap<u32, Verdict> = BTreeMap::new();
        let mut open: Vec<&Candidate<'_>> = Vec::new();
        for candidate in &candidates {
            match self.settled(candidate, &piles) {
                Some(verdict) => {
                    verdicts.insert(candidate.root.pid(), verdict);
                }
                None => open.push(candidate),
            }
        }
        // Those that only leaked ones hold are leaked too.
        loop {
            let leaked: HashSet<u32> = open
                .iter()
                .flat_map(|one| one.tree.iter().copied())
                .collect();
            let before = open.len();
            open.retain(|candidate| {
                let owner = holders::owner(self, candidate, &leaked);
                owner.is_none_or(|owner| {
                    verdicts.insert(candidate.root.pid(), Verdict::Owned(owner));
                    false
                })
            });
            if open.len() == before {
                break;
            }
        }
        for candidate in open {
            verdicts.insert(candidate.root.pid(), self.leaked(candidate));
        }
        candidates
            .into_iter()
            .filter_map(|candidate| {
                let verdict = verdicts.remove(&candidate.root.pid())?;
                let part = candidate.known.kind == Kind::BrowserPart;
                if part && matches!(verdict, Verdict::Owned(Owner::Parent { .. })) {
                    // Of any browser with windows there are dozens.
                    return None;
                }
                Some(Finding {
                    root: candidate.root.stat.id,
                    known: candidate.known,
                    agent: candidate.agent.pid(),
                    command: candidate.agent.line(),
                    age: self.now.age(candidate.root),
                    memory: memory(self.proc, self.now, &candidate.tree),
                    tree: candidate.tree,
                    verdict,
                })
            })
            .collect()
    }

    /// The name of a process, for people.
    pub(crate) fn name(&self, pid: u32) -> String {
        let process = self.now.get(pid);
        process.map_or_else(
            || "?".to_owned(),
            |process| process.stat.command.to_string(),
        )
    }

    fn candidates(&self) -> Vec<Candidate<'a>> {
        let mut by_root: BTreeMap<u32, Candidate<'a>> = BTreeMap::new();
        let mut processes: Vec<&Process> = self.now.processes.values().collect();
        processes.sort_unstable_by_key(|process| process.stat.id.start_time);
        for process in processes {
            // What was not there at the first look is on its way somewhere.
            if !process.ours || process.is_hostler() || self.before.same(process.stat.id).is_none()
            {
                continue;
            }
            let Some(known) = self.known(process) else {
                continue;
            };
            let whole = self.root(process, true);
            let root = match self.above(whole) {
                Above::Orphan { .. } => whole,
                // Each by itself: of those that pile up, the parent may be a known program too.
                Above::Living | Above::Outside => self.root(process, false),
            };
            if !root.ours || root.pid() == 1 || !self.is_meant(root) {
                continue;
            }
            by_root.entry(root.pid()).or_insert_with(|| Candidate {
                root,
                agent: process,
                known,
                tree: self.now.tree(root.pid()),
            });
        }
        // What is in an orphan's tree is not told twice.
        let orphans: Vec<(u32, HashSet<u32>)> = by_root
            .values()
            .filter(|one| matches!(self.above(one.root), Above::Orphan { .. }))
            .map(|one| (one.root.pid(), one.tree.iter().copied().collect()))
            .collect();
        by_root.retain(|root, _| {
            !orphans
                .iter()
                .any(|(other, tree)| other != root && tree.contains(root))
        });
        by_root.into_values().collect()
    }

    fn known(&self, process: &Process) -> Option<&'static Known> {
        if let Some(known) = process.names.known(|| process.hint().is_some()) {
            return Some(known);
        }
        if !matches!(self.above(process), Above::Orphan { .. }) {
            return None;
        }
        if self.group_of_gone(process).is_some() {
            return Some(&SURVIVOR);
        }
        let wraps = process.names.wraps && self.now.children(process.pid()).len() == 1;
        (!wraps && process.hint().is_some()).then_some(&WORK)
    }

    #[cfg(debug_assertions)]
    fn is_meant(&self, root: &Process) -> bool {
        self.only.as_deref().is_none_or(|mark| root.carries(mark))
    }

    #[cfg(not(debug_assertions))]
    fn is_meant(&self, _root: &Process) -> bool {
        self.only.is_none()
    }

    /// The highest of the wrappers above, and of the known programs too if `beyond` them.
    fn root(&self, process: &'a Process, beyond: bool) -> &'a Process {
        let mut root = process;
        for parent in self.now.ancestors(process.pid()) {
            let wraps = parent.names.wraps && self.now.children(parent.pid()).len() == 1;
            let speaks = || {
                let known = parent.names.known(|| false);
                known.is_some_and(|known| known.kind.lives_by_input())
            };
            if parent.pid() == 1
                || parent.is_hostler()
                || self.above(root) != Above::Living
                || !(wraps || beyond && speaks())
            {
                break;
            }
            root = parent;
        }
        root
    }

    /// Who has this process, and whether whoever started it is gone.
    pub(crate) fn above(&self, process: &Process) -> Above {
        if process.stat.parent == 0 {
            return Above::Outside;
        }
        let Some(parent) = self.now.get(process.stat.parent) else {
            if process.stat.parent == 1 {
                // /proc hides it (hidepid).
                let init = "init".to_owned();
                let reason = Reason::Orphan { init };
                return Above::Orphan {
                    reason,
                    proven: false,
                };
            }
            // Hidden too, or it has just lost its parent: another look will tell.
            return Above::Living;
        };
        let name = program(parent).to_owned();
        let proof = self.proof(process, parent);
        let with = started(process.stat.id).saturating_sub(started(parent.stat.id)) < WITH_INIT
            && proof != Some(Proof::Younger);
        if parent.pid() == 1 {
            let reaper = INITS.contains(&name.as_str());
            if with && !matches!(proof, Some(Proof::Session(_))) && name != "systemd" {
                return Above::Living;
            }
            return Above::Orphan {
                reason: Reason::Orphan { init: name },
                proven: reaper || proof.is_some(),
            };
        }
        if name == "systemd" && parent.args.iter().any(|word| word == "--user") {
            let reason = Reason::OrphanOfUserManager {
                manager: parent.pid(),
            };
            return Above::Orphan {
                reason,
                proven: true,
            };
        }
        let reaper = REAPERS.iter().any(|pattern| fits(pattern, &name)) && !with;
        match proof.or(reaper.then_some(Proof::Reaper)) {
            Some(proof) if !parent.is_hostler() => Above::Orphan {
                reason: Reason::OrphanOfSubreaper {
                    pid: parent.pid(),
                    name,
                    proof,
                },
                proven: true,
            },
            _ => Above::Living,
        }
    }

    /// What shows that this parent is not the one that started it.
    fn proof(&self, process: &Process, parent: &Process) -> Option<Proof> {
        let (own, above) = (&process.stat, &parent.stat);
        if above.id.start_time > own.id.start_time {
            return Some(Proof::Younger);
        }
        // A session is inherited or one's own. One that is neither's was made by someone between the two who is gone; unless
        // the parent has left it since, and then those above the parent are still in it.
        let inherited = self
            .now
            .ancestors(process.pid())
            .iter()
            .any(|ancestor| ancestor.stat.session == own.session);
        (own.session != own.id.pid && own.session != 0 && !inherited)
            .then_some(Proof::Session(own.session))
    }

    /// The cgroup of a gone `hostler` that holds this process.
    pub(crate) fn group_of_gone(&self, process: &Process) -> Option<(String, u32)> {
        let group = process.group.as_deref()?;
        let (name, pid) = group
            .split('/')
            .find_map(|part| Some((part, owner_in_name(part)?)))?;
        (!lives(pid)).then(|| (name.to_owned(), pid))
    }

    /// Many of the same program that do nothing under one living parent.
    fn piles(&self, candidates: &[Candidate<'_>]) -> HashMap<u32, (usize, u32)> {
        let mut piles: BTreeMap<(u32, &[String]), Vec<u32>> = BTreeMap::new();
        for one in candidates {
            let lives = self.above(one.root) == Above::Living;
            let owned = self
                .now
                .ancestors(one.root.pid())
                .iter()
                .any(|above| above.is_hostler());
            let piles_up = !matches!(one.known.kind, Kind::Work | Kind::Multiplexer);
            if lives && !owned && piles_up && self.activity(&one.tree) == (Duration::ZERO, 0) {
                let key = (one.root.stat.parent, one.agent.names.names.as_slice());
                piles.entry(key).or_default().push(one.root.pid());
            }
        }
        piles.retain(|_, pile| pile.len() > PILE);
        piles
            .into_iter()
            .flat_map(|((parent, _), pile)| {
                let count = pile.len();
                pile.into_iter().map(move |root| (root, (count, parent)))
            })
            .collect()
    }

    /// CPU time and bytes since the look before.
    fn activity(&self, tree: &[u32]) -> (Duration, u64) {
        let mut sum = (Duration::ZERO, 0);
        for process in tree.iter().filter_map(|pid| self.now.get(*pid)) {
            let (cpu, moved) = self
                .before
                .same(process.stat.id)
                .map_or_else(Default::default, |old| {
                    (old.stat.cpu, old.moved.unwrap_or(0))
                });
            sum.0 += process.stat.cpu.saturating_sub(cpu);
            sum.1 += process.moved.unwrap_or(0).saturating_sub(moved);
        }
        sum
    }

    /// The verdict, where it does not depend on who holds the other ends.
    fn settled(&self, one: &Candidate<'_>, piles: &HashMap<u32, (usize, u32)>) -> Option<Verdict> {
        let own = std::process::id();
        let above = self.now.ancestors(own);
        if one.tree.contains(&own)
            || above
                .iter()
                .any(|process| one.tree.contains(&process.pid()))
        {
            return Some(Verdict::Owned(Owner::Yourself));
        }
        let here = self.now.get(own).and_then(|process| process.namespace);
        if one.root.namespace.is_some() && one.root.namespace != here {
            return Some(Verdict::Owned(Owner::Namespace));
        }
        let ancestors = self.now.ancestors(one.root.pid());
        if let Some(hostler) = ancestors.iter().find(|process| process.is_hostler()) {
            return Some(Verdict::Owned(Owner::Hostler { pid: hostler.pid() }));
        }
        match self.above(one.root) {
            Above::Orphan { .. } => None,
            Above::Outside => Some(Verdict::Owned(Owner::Outside)),
            Above::Living => {
                let pid = one.root.stat.parent;
                if let Some((count, parent)) = piles.get(&one.root.pid()) {
                    let looked = self.now.taken.saturating_sub(self.before.taken);
                    let reasons = vec![
                        Reason::PiledUp {
                            count: *count,
                            parent: *parent,
                            name: self.name(*parent),
                        },
                        Reason::Quiet { looked },
                    ];
                    return Some(Verdict::Leaked {
                        certainty: Certainty::Possible,
                        reasons,
                    });
                }
                let name = self.name(pid);
                Some(Verdict::Owned(match pid {
                    1 => Owner::Init { name },
                    _ => Owner::Parent { pid, name },
                }))
            }
        }
    }

    fn leaked(&self, one: &Candidate<'_>) -> Verdict {
        let mut reasons = Vec::new();
        let mut proven = false;
        if let Above::Orphan {
            reason,
            proven: sure,
        } = self.above(one.root)
        {
            reasons.push(reason);
            proven = sure;
        }
        let survivor = self.group_of_gone(one.root);
        let survives = survivor.is_some();
        reasons.extend(survivor.map(|(group, pid)| Reason::GroupOfGone { group, pid }));
        let session = one.root.stat.session;
        if session != one.root.pid() && session != 0 && !lives(session) {
            reasons.push(Reason::SessionOver { session });
        }
        let dead = holders::speak(self, one, &mut reasons);
        let scope = holders::scope(self, one);
        let unsure = scope.is_some();
        reasons.extend(scope.map(|scope| Reason::InScope { scope }));
        let looked = self.now.taken.saturating_sub(self.before.taken);
        let (cpu, moved) = self.activity(&one.tree);
        let quiet = (cpu, moved) == (Duration::ZERO, 0);
        reasons.push(if quiet {
            Reason::Quiet { looked }
        } else {
            Reason::Busy { looked, cpu, moved }
        });
        let hint = one.agent.hint().or_else(|| one.root.hint());
        reasons.extend(hint.map(|variable| Reason::Hint { variable }));
        let certainty = match dead {
            _ if unsure => Certainty::Possible,
            _ if survives => Certainty::Likely,
            holders::Use::Over => Certainty::Likely,
            // What works without a client may be a job of its own.
            holders::Use::None if proven && quiet => Certainty::Likely,
            _ => Certainty::Possible,
        };
        Verdict::Leaked { certainty, reasons }
    }
}

/// The name by which a process was started.
pub(crate) fn program(process: &Process) -> &str {
    process.names.names.first().map_or("", String::as_str)
}
