//! When a schedule is due.

use std::fmt;
use std::sync::Arc;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::engine::error::{Error, Result};

/// The longest expression that is read, in bytes.
const LONGEST: usize = 256;
/// The names that stand for expressions.
const NAMES: [&str; 8] = [
    NEVER,
    "@hourly",
    "@daily",
    "@midnight",
    "@weekly",
    "@monthly",
    "@yearly",
    "@annually",
];
/// The name for what is never due by itself, and made by hand only.
const NEVER: &str = "@never";
/// Times that were dealt with and lie further ahead than this were dealt with by a clock that was wrong, and may come again. In
/// milliseconds; cron has the same three hours.
const WRONG: u64 = 3 * 3_600_000;

/// Where the time comes from. Clones are the same.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// One that this function reads: Unix time in milliseconds.
    pub fn new(read: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Unix time in milliseconds.
    pub fn now(&self) -> u64 {
        (self.0)()
    }
}

impl Default for Clock {
    /// That of the machine.
    fn default() -> Self {
        Self::new(crate::engine::jobs::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

/// The times at which a schedule is due.
#[derive(Debug, Clone)]
pub(crate) struct When {
    /// `None` for never.
    cron: Option<Cron>,
    zone: TimeZone,
}

/// The name of the machine's time zone in the time zone database; `None` where it has no name there.
pub fn machine_zone() -> Option<String> {
    TimeZone::system().iana_name().map(str::to_owned)
}

impl When {
    /// Reads an expression of five fields, as crontab(5) has them, or one of the names; and the name of a time zone, `None` for
    /// that of the machine.
    ///
    /// Where clocks are put forward, what is due at a time that there is not is due right after; where they are put back, what is
    /// due at one time of a day is due once, and what is due every so often goes on.
    pub(crate) fn read(cron: &str, zone: Option<&str>) -> Result<Self> {
        let wrong = |why: String| Error::Invalid(format!("cron: `{}`: {why}", cut(cron)));
        let fields = cron.split_whitespace().count();
        if cron.len() > LONGEST || cron.chars().any(char::is_control) {
            return Err(wrong(format!(
                "at most {LONGEST} characters in one line are read"
            )));
        }
        if cron.contains('@') {
            let lower = cron.trim().to_ascii_lowercase();
            if !NAMES.contains(&lower.as_str()) {
                return Err(wrong(format!("the names are {}", NAMES.join(", "))));
            }
        } else if fields != 5 {
            return Err(wrong(format!(
                "five fields are wanted (minute, hour, day of the month, month, day of the week), and there are {fields}"
            )));
        }
        let never = cron.trim().eq_ignore_ascii_case(NEVER);
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let parse = || {
            parser.parse(cron).map_err(|error| {
                let text = error.to_string();
                let text = text.strip_prefix("Component error: ").unwrap_or(&text);
                wrong(text.trim_end_matches('.').to_owned())
            })
        };
        let cron = match never {
            true => None,
            false => Some(parse()?),
        };
        let zone = match zone {
            Some(zone) => TimeZone::get(zone).map_err(|_| {
                let message = format!(
                    "zone: there is no time zone `{}`, such as `Europe/Berlin` or `UTC`",
                    cut(zone)
                );
                Error::Invalid(message)
            })?,
            None => TimeZone::system(),
        };
        Ok(Self { cron, zone })
    }

    /// Whether it is never due by itself, as it is meant to be.
    pub(crate) fn is_never(&self) -> bool {
        self.cron.is_none()
    }

    /// The first time after this one at which it is due; `None` for never. Unix time in milliseconds, as `after` is.
    pub(crate) fn next(&self, after: u64) -> Option<u64> {
        let after = self.at(after)?;
        let next = self.cron.as_ref()?;
        let next = next.find_next_occurrence(&after, false).ok()?;
        u64::try_from(next.timestamp().as_millisecond()).ok()
    }

    /// The first time that is due now and was not dealt with, which `last` was.
    pub(crate) fn next_now(&self, now: u64, last: Option<u64>) -> Option<u64> {
        let last = last.filter(|last| *last <= now.saturating_add(WRONG));
        self.next(last.map_or(now, |last| last.max(now)))
    }

    /// The last time up to `now` at which it was due, of those from `from` on.
    pub(crate) fn last_between(&self, from: u64, now: u64) -> Option<u64> {
        let mut last = None;
        let mut at = from.saturating_sub(1);
        while let Some(next) = self.next(at).filter(|next| *next <= now) {
            last = Some(next);
            at = next;
        }
        last
    }

    fn at(&self, ms: u64) -> Option<Zoned> {
        let time = Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
        Some(time.to_zoned(self.zone.clone()))
    }
}

/// What is shown of a text that was given.
fn cut(text: &str) -> String {
    let shown = text.chars().filter(|letter| !letter.is_control());
    shown.take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> u64 {
        let time: Timestamp = text.parse().expect("a time");
        time.as_millisecond() as u64
    }

    fn times(cron: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let when = When::read(cron, Some(zone)).expect("an expression");
        let mut at = ms(from);
        let mut found = Vec::new();
        while found.len() < count {
            at = when.next(at).expect("it is due");
            let time = Timestamp::from_millisecond(at as i64).expect("a time");
            found.push(time.to_string());
        }
        found
    }

    #[test]
    fn five_fields_with_names_ranges_and_steps_are_read() {
        for (cron, wanted) in [
            ("*/20 * * * *", "2026-01-01T00:20:00Z"),
            ("5 4 * * mon-fri", "2026-01-01T04:05:00Z"),
            ("0 0 1,15 FEB *", "2026-02-01T00:00:00Z"),
            ("0 12 * * SUN", "2026-01-04T12:00:00Z"),
            ("0 12 * * 7", "2026-01-04T12:00:00Z"),
            ("0 9-17/4 * * *", "2026-01-01T09:00:00Z"),
            // Either of the two days, as crontab(5) says.
            ("0 0 13 * fri", "2026-01-02T00:00:00Z"),
            ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
            ("@hourly", "2026-01-01T01:00:00Z"),
            ("@Daily", "2026-01-02T00:00:00Z"),
            ("@weekly", "2026-01-04T00:00:00Z"),
            ("@monthly", "2026-02-01T00:00:00Z"),
            ("@yearly", "2027-01-01T00:00:00Z"),
        ] {
            assert_eq!(
                times(cron, "UTC", "2026-01-01T00:00:00Z", 1),
                [wanted],
                "{cron}"
            );
        }
        for (cron, is_meant) in [("0 0 30 2 *", false), ("@never", true)] {
            let never = When::read(cron, None).expect("an expression");
            assert_eq!(never.next(ms("2026-01-01T00:00:00Z")), None);
            assert_eq!(never.is_never(), is_meant);
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (cron, zone, words) in [
            ("* * * *", None, "five fields are wanted"),
            ("* * * * * *", None, "there are 6"),
            ("", None, "there are 0"),
            ("60 * * * *", None, "60"),
            ("* * * * mun", None, "illegal characters"),
            ("@reboot", None, "@hourly"),
            ("*/0 * * * *", None, "*/0"),
            ("* * * * *\n", None, "one line"),
            ("* * * * *", Some("Mars/Olympus"), "`Mars/Olympus`"),
            ("* * * * *", Some("../../etc/passwd"), "no time zone"),
        ] {
            let error = When::read(cron, zone).expect_err(cron).to_string();
            assert!(error.contains(words), "{cron}: {error}");
            assert_eq!(error.lines().count(), 1, "{error:?}");
        }
        assert!(When::read(&"1,".repeat(1000), None).is_err());
    }

    #[test]
    fn clocks_that_are_put_forward_and_back_lose_nothing_and_double_nothing() {
        // 2026-03-29, 02:00 becomes 03:00 in Berlin: what is due at 02:30 is due at 03:00.
        assert_eq!(
            times("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2),
            ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
        // 2026-10-25, 03:00 becomes 02:00: 02:30 is twice, and due once.
        assert_eq!(
            times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        assert_eq!(
            times("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 4),
            [
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T01:30:00Z",
                "2026-10-25T02:00:00Z"
            ]
        );
    }

    #[test]
    fn a_clock_that_was_set_back_a_little_repeats_nothing_and_far_back_begins_anew() {
        let when = When::read("0 * * * *", Some("UTC")).expect("an expression");
        let noon = ms("2026-01-01T12:00:00Z");
        let hour = 3_600_000;
        assert_eq!(when.next_now(noon, None), Some(noon + hour));
        assert_eq!(
            when.next_now(noon - hour / 2, Some(noon)),
            Some(noon + hour)
        );
        assert_eq!(
            when.next_now(noon - 24 * hour, Some(noon)),
            Some(noon - 23 * hour)
        );
        assert_eq!(
            when.last_between(noon, noon + 5 * hour / 2),
            Some(noon + 2 * hour)
        );
        assert_eq!(when.last_between(noon + 1, noon + hour - 1), None);
    }
}
