//! When a session ends without being asked.

use std::time::Duration;

use tokio::time::Instant;

use crate::policy::Policy;
use crate::report::CloseReason;

/// How soon it is looked again whether a resource is still busy, when only that holds an end off.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What a judgement depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) now: Instant,
    /// When a client last did something, or something that was under way was over.
    pub(crate) last_activity: Instant,
    /// When it was opened. May lie before this boot's beginning, and is then counted by `age` alone.
    pub(crate) opened: Instant,
    /// How old it was then.
    pub(crate) age: Duration,
    /// When the hour of its daily reset comes.
    pub(crate) reset_at: Option<Instant>,
    /// When its last client left.
    pub(crate) detached_at: Option<Instant>,
    /// Whether a foreground process or a turn is under way.
    pub(crate) busy: bool,
    /// Whether a resource says that it is busy; nobody tells when that is over.
    pub(crate) resource_busy: bool,
    /// Whether background processes run.
    pub(crate) background: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Close it now.
    Close(CloseReason),
    /// Judge again then, or when something changes.
    Wait(Instant),
    /// Nothing will end it, as things stand.
    Never,
}

/// Judges by the policy. An end that is due and has to wait is judged again each time something changes, and at the latest when
/// nothing may hold it off any more.
pub(crate) fn judge(policy: &Policy, facts: &Facts) -> Verdict {
    let busy = facts.busy || facts.resource_busy;
    let some = |time: Option<Duration>| time.filter(|time| !time.is_zero());
    let idle = some(policy.idle).and_then(|idle| after(facts.last_activity, idle));
    let age =
        some(policy.max_age).and_then(|age| after(facts.opened, age.saturating_sub(facts.age)));
    let detached = some(policy.detached_grace)
        .zip(facts.detached_at)
        .and_then(|(grace, since)| after(since, grace));
    let mut next: Option<Instant> = None;
    for (reason, due) in [
        (CloseReason::Disconnect, detached),
        (CloseReason::Expired, age),
        (CloseReason::Reset, facts.reset_at),
        (CloseReason::Idle, idle),
    ] {
        let Some(due) = due else { continue };
        let never_while_busy = reason == CloseReason::Idle && busy;
        let held = (busy && reason != CloseReason::Idle) || facts.background;
        let mut at = if held {
            after(due, policy.background_holds)
        } else {
            Some(due)
        };
        if never_while_busy {
            at = None;
        }
        if at.is_some_and(|at| at <= facts.now) {
            return Verdict::Close(reason);
        }
        if due <= facts.now && facts.resource_busy {
            at = Some(at.map_or(facts.now + LOOK_AGAIN, |at| at.min(facts.now + LOOK_AGAIN)));
        }
        if due > facts.now {
            at = Some(at.map_or(due, |at| at.min(due)));
        }
        next = match (next, at) {
            (Some(next), Some(at)) => Some(next.min(at)),
            (next, at) => next.or(at),
        };
    }
    next.map_or(Verdict::Never, Verdict::Wait)
}

fn after(start: Instant, time: Duration) -> Option<Instant> {
    start.checked_add(time)
}

/// When this hour of the day comes next, on the clock on the wall of this machine.
pub(crate) fn next_hour(hour: u8) -> Option<Instant> {
    let now = jiff::Zoned::now();
    let today = now
        .with()
        .hour(i8::try_from(hour).ok()?)
        .minute(0)
        .second(0)
        .subsec_nanosecond(0)
        .build()
        .ok()?;
    let next = if today > now {
        today
    } else {
        today.checked_add(jiff::Span::new().days(1)).ok()?
    };
    let wait = Duration::try_from(now.duration_until(&next)).ok()?;
    Instant::now().checked_add(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn facts() -> Facts {
        let now = Instant::now() + MINUTE * 100;
        Facts {
            now,
            last_activity: now - MINUTE * 10,
            opened: now - MINUTE * 20,
            age: Duration::ZERO,
            reset_at: None,
            detached_at: None,
            busy: false,
            resource_busy: false,
            background: false,
        }
    }

    fn idle_after(idle: Duration) -> Policy {
        Policy {
            idle: Some(idle),
            ..Policy::default()
        }
    }

    #[test]
    fn nothing_ends_a_session_without_a_rule() {
        assert_eq!(judge(&Policy::default(), &facts()), Verdict::Never);
        assert_eq!(judge(&idle_after(Duration::ZERO), &facts()), Verdict::Never);
    }

    #[test]
    fn idle_waits_for_what_is_under_way_and_is_armed_again() {
        let policy = idle_after(MINUTE * 5);
        let facts = facts();
        assert_eq!(judge(&policy, &facts), Verdict::Close(CloseReason::Idle));
        let busy = Facts {
            busy: true,
            ..facts
        };
        assert_eq!(judge(&policy, &busy), Verdict::Never);
        let resource = Facts {
            resource_busy: true,
            ..facts
        };
        assert_eq!(
            judge(&policy, &resource),
            Verdict::Wait(facts.now + LOOK_AGAIN)
        );
        let fresh = Facts {
            last_activity: facts.now,
            ..facts
        };
        assert_eq!(
            judge(&policy, &fresh),
            Verdict::Wait(facts.now + MINUTE * 5)
        );
    }

    #[test]
    fn background_holds_off_for_as_long_as_the_policy_says() {
        let policy = Policy {
            background_holds: MINUTE * 10,
            ..idle_after(MINUTE * 5)
        };
        let held = Facts {
            background: true,
            ..facts()
        };
        // Due for 5 minutes, held for 10.
        assert_eq!(judge(&policy, &held), Verdict::Wait(held.now + MINUTE * 5));
        let later = Facts {
            now: held.now + MINUTE * 5,
            ..held
        };
        assert_eq!(judge(&policy, &later), Verdict::Close(CloseReason::Idle));
    }

    #[test]
    fn age_counts_what_was_before_an_adoption() {
        let policy = Policy {
            max_age: Some(MINUTE * 60),
            ..Policy::default()
        };
        let facts = facts();
        assert_eq!(
            judge(&policy, &facts),
            Verdict::Wait(facts.opened + MINUTE * 60)
        );
        let old = Facts {
            age: MINUTE * 50,
            ..facts
        };
        assert_eq!(judge(&policy, &old), Verdict::Close(CloseReason::Expired));
    }

    #[test]
    fn the_next_hour_is_within_a_day() {
        for hour in 0..24 {
            let wait = next_hour(hour).expect("an hour") - Instant::now();
            // 25 hours where clocks are set back.
            assert!(wait <= MINUTE * 60 * 25, "{hour}: {wait:?}");
        }
    }
}
