//! What tells one version of a file from the next, and times.

use rustix::fs::Stat;

/// The version of a file: of which name and size it is, and when it was changed last, as precisely as the kernel counts that. Writing
/// through this host gives a file another number, so each version that a client was told of is told from every later one that this
/// host wrote; another program's change in place is told from the kernel's next tick on.
pub(super) fn etag(stat: &Stat) -> String {
    format!(
        "{:x}-{:x}-{:x}-{:x}.{:x}-{:x}.{:x}",
        stat.st_dev,
        stat.st_ino,
        stat.st_size,
        stat.st_mtime,
        stat.st_mtime_nsec,
        stat.st_ctime,
        stat.st_ctime_nsec
    )
}

/// A time in seconds and nanoseconds since 1970 as ISO 8601 has it, in UTC and milliseconds.
pub(super) fn iso(seconds: i64, nanos: u32) -> String {
    let days = seconds.div_euclid(86_400);
    let rest = seconds.rem_euclid(86_400);
    // Days since the first of March of the year 0, in eras of 400 years (Hinnant, "chrono-compatible low-level date algorithms").
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60,
        nanos / 1_000_000
    )
}

#[cfg(test)]
mod tests {
    use super::iso;

    #[test]
    fn times_are_written_as_iso_8601_has_them() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, 999_999_999, "2000-02-29T00:00:00.999Z"),
            (1_763_734_506, 5_000_000, "2025-11-21T14:15:06.005Z"),
            (-1, 0, "1969-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(iso(seconds, nanos), text);
        }
    }
}
