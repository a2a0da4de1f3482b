//! What a keeper watches over by looking: limits that the kernel does not enforce, quiet, age. A keeper that has nothing to
//! watch never wakes up.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::cgroup::Enforced;
use crate::config::{Limits, Rules};
use crate::identity::ProcessId;
use crate::outcome::EndReason;
use crate::proc::Proc;
use crate::walk::descendants;

/// Between looks at limits.
const LIMIT_LOOK: Duration = Duration::from_millis(20);
/// Between looks that only measure.
const MEASURE_LOOK: Duration = Duration::from_millis(200);
/// A tree that uses less of one CPU than this is quiet, if it also moves no data: timers of a runtime at rest.
const QUIET_CPU: f64 = 0.02;
/// How quiet a tree must have been, for so long, to be ended for its age.
const QUIET_SPELL: Duration = Duration::from_secs(1);

/// One look at a whole tree.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    count: u64,
    resident: u64,
    cpu: Duration,
    /// Changes whenever a process comes, goes, reads or writes.
    activity: u64,
    largest: Option<(ProcessId, u64)>,
}

impl Sample {
    fn take(proc: &Proc, root: Pid, spare: Option<Pid>, with_data: bool) -> Self {
        let mut sample = Self::default();
        let mut activity = DefaultHasher::new();
        descendants(proc, root, |stat| {
            let Some(pid) =
                Pid::from_raw(stat.id.pid.cast_signed()).filter(|pid| Some(*pid) != spare)
            else {
                return;
            };
            sample.count += 1;
            sample.resident += stat.resident;
            sample.cpu += stat.cpu;
            if sample.largest.is_none_or(|(_, held)| held < stat.resident) {
                sample.largest = Some((stat.id, stat.resident));
            }
            if with_data {
                stat.id.hash(&mut activity);
                proc.transferred(pid).unwrap_or(0).hash(&mut activity);
            }
        });
        sample.activity = activity.finish();
        sample
    }
}

/// What is watched, and what was seen so far.
#[derive(Debug)]
pub(crate) struct Watch {
    memory: Option<u64>,
    pids: Option<u64>,
    rules: Rules,
    began: Instant,
    look: Option<Instant>,
    /// Since when nothing has happened, with what was seen then.
    quiet_since: Instant,
    last: (Instant, Sample),
    /// The most memory seen at once: the sum of the resident sets, in bytes.
    pub peak: u64,
    /// The resident sum at which the exact measure was last below the limit, and when.
    cleared: Option<(Instant, u64)>,
}

impl Watch {
    /// Watches over what the kernel does not.
    pub(crate) fn new(limits: &Limits, enforced: Enforced, rules: &Rules) -> Self {
        let now = Instant::now();
        let mut watch = Self {
            memory: limits.memory.filter(|_| !enforced.memory),
            pids: limits.pids.filter(|_| !enforced.pids),
            rules: rules.clone(),
            began: now,
            look: None,
            quiet_since: now,
            last: (now, Sample::default()),
            peak: 0,
            cleared: None,
        };
        watch.look = watch
            .interval()
            .map(|interval| now + interval.min(LIMIT_LOOK));
        watch
    }

    fn is_watching_quiet(&self) -> bool {
        self.rules.idle_timeout.is_some() || self.rules.max_lifetime.is_some()
    }

    fn interval(&self) -> Option<Duration> {
        let limits = (self.memory.is_some() || self.pids.is_some()).then_some(LIMIT_LOOK);
        let measure = self.rules.measure.then_some(MEASURE_LOOK);
        let quiet = |time: Option<Duration>| {
            time.map(|time| (time / 20).clamp(Duration::from_millis(50), Duration::from_secs(5)))
        };
        let spell = self.rules.max_lifetime.map(|_| QUIET_SPELL / 4);
        [limits, measure, quiet(self.rules.idle_timeout), spell]
            .into_iter()
            .flatten()
            .min()
    }

    /// When there is something to do, if ever.
    pub(crate) fn due(&self) -> Option<Instant> {
        let timeout = self.rules.timeout.map(|time| self.began + time);
        [self.look, timeout].into_iter().flatten().min()
    }

    /// Does what is due; says why the tree must end, if it must.
    pub(crate) fn round(
        &mut self,
        proc: &Proc,
        root: Pid,
        spare: Option<Pid>,
        spent: Duration,
    ) -> Option<EndReason> {
        let now = Instant::now();
        if self
            .rules
            .timeout
            .is_some_and(|time| now >= self.began + time)
        {
            return Some(EndReason::Timeout);
        }
        if self.look.is_none_or(|look| now < look) {
            return None;
        }
        let mut sample = Sample::take(proc, root, spare, self.is_watching_quiet());
        // CPU time of the dead is the keeper's children's; together they only grow.
        sample.cpu += spent;
        // A look at many processes costs; never more than a twentieth of the time.
        let cost = now.elapsed();
        self.look = self
            .interval()
            .map(|interval| Instant::now() + interval.max(cost * 20));
        self.peak = self.peak.max(sample.resident);
        if let Some(reason) = self.over_limit(proc, root, &sample, now) {
            return Some(reason);
        }
        self.note_quiet(&sample, now);
        self.too_quiet_or_old(now)
    }

    fn over_limit(
        &mut self,
        proc: &Proc,
        root: Pid,
        sample: &Sample,
        now: Instant,
    ) -> Option<EndReason> {
        if self.pids.is_some_and(|limit| sample.count > limit) {
            return Some(EndReason::Pids {
                count: sample.count,
            });
        }
        let limit = self.memory.filter(|limit| sample.resident > *limit)?;
        // Resident sets count shared pages once for each process. Only the exact measure, which is slow, condemns; it is
        // not taken again while little has changed.
        if let Some((when, resident)) = self.cleared
            && sample.resident < resident + resident / 20
            && now - when < Duration::from_millis(500)
        {
            return None;
        }
        let (mut used, mut largest) = (0, sample.largest?);
        largest.1 = 0;
        descendants(proc, root, |stat| {
            let Some(pid) = Pid::from_raw(stat.id.pid.cast_signed()) else {
                return;
            };
            let held = proc.proportional(pid).unwrap_or(stat.resident);
            used += held;
            if held > largest.1 {
                largest = (stat.id, held);
            }
        });
        if used <= limit {
            self.cleared = Some((now, sample.resident));
            return None;
        }
        Some(EndReason::Memory {
            used,
            largest: largest.0,
            held: largest.1,
        })
    }

    fn note_quiet(&mut self, sample: &Sample, now: Instant) {
        let (before, last) = (self.last.0, self.last.1);
        let worked = sample.cpu.saturating_sub(last.cpu).as_secs_f64();
        let allowed = (now - before).as_secs_f64() * QUIET_CPU;
        if sample.activity != last.activity || worked > allowed.max(0.01) {
            self.quiet_since = now;
        }
        self.last = (now, *sample);
    }

    fn too_quiet_or_old(&self, now: Instant) -> Option<EndReason> {
        let quiet = now - self.quiet_since;
        if self.rules.idle_timeout.is_some_and(|limit| quiet >= limit) {
            return Some(EndReason::Idle);
        }
        let lifetime = self.rules.max_lifetime?;
        let age = now - self.began;
        let latest = lifetime + (lifetime / 10).min(Duration::from_secs(60));
        (age >= latest || (age >= lifetime && quiet >= QUIET_SPELL)).then_some(EndReason::Lifetime)
    }
}
