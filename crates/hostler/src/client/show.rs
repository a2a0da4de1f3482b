//! Everything that is printed for people goes through here: tables, times, sizes, and JSON for programs.

use std::fmt::Write as _;

use rustix::io::Errno;
use rustix::stdio::stdout;
use serde_json::Value;

use super::error::{Failure, Result};
use super::{streams, tty};

/// Writes to standard output.
pub(crate) fn print(text: &str) -> Result<()> {
    print_bytes(text.as_bytes())
}

/// The same with bytes.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<()> {
    streams::put(stdout(), bytes).map_err(|error| match error {
        Errno::PIPE => Failure::BrokenPipe,
        error => Failure::io("write the output", error),
    })
}

/// Writes JSON, for people as well.
pub(crate) fn print_json(value: &Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::Nonsense(error.to_string()))?;
    text.push('\n');
    print(&text)
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    title: &'static str,
    right: bool,
}

/// One with text.
pub(crate) const fn left(title: &'static str) -> Column {
    Column {
        title,
        right: false,
    }
}

/// One with numbers.
pub(crate) const fn right(title: &'static str) -> Column {
    Column { title, right: true }
}

/// How a table is drawn.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Look {
    /// Lines are cut here.
    width: Option<usize>,
    colour: bool,
}

impl Look {
    /// As standard output is: lines are cut and titles stand out on a terminal alone, and colour can be forbidden.
    pub(crate) fn here() -> Self {
        if !tty::stdout_is() {
            return Self::default();
        }
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            width: tty::size().map(|(_, columns)| usize::from(columns)),
            colour: !forbidden,
        }
    }
}

/// A table. Cells are made plain: what a process calls itself cannot write to the terminal.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// One without rows.
    pub(crate) fn new(columns: &[Column]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// One row more.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows
            .push(cells.iter().map(|cell| plain(cell)).collect());
    }

    /// Writes it.
    pub(crate) fn print(&self) -> Result<()> {
        print(&self.draw(Look::here()))
    }

    fn draw(&self, look: Look) -> String {
        let titles: Vec<String> = self.columns.iter().map(|c| c.title.to_owned()).collect();
        let lines = || std::iter::once(&titles).chain(&self.rows);
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|at| {
                lines()
                    .filter_map(|cells| cells.get(at))
                    .map(|cell| cell.chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut out = String::new();
        for (number, cells) in lines().enumerate() {
            let mut line = String::new();
            for ((cell, width), column) in cells.iter().zip(&widths).zip(&self.columns) {
                let pad = " ".repeat(width - cell.chars().count());
                let gap = if line.is_empty() { "" } else { "  " };
                let _ = if column.right {
                    write!(line, "{gap}{pad}{cell}")
                } else {
                    write!(line, "{gap}{cell}{pad}")
                };
            }
            let mut line = line.trim_end().to_owned();
            if let Some(width) = look.width {
                line = cut(&line, width);
            }
            if number == 0 && look.colour {
                line = format!("\x1b[1m{line}\x1b[m");
            }
            out.push_str(&line);
            out.push('\n');
        }
        out
    }
}

/// At most so many characters, with a sign where something was cut.
pub(crate) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(most.saturating_sub(1)).collect();
    out.push('…');
    out
}

/// Without characters that control a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// A command line in one line, quoted where that is needed to read it.
pub(crate) fn command(argv: &[String]) -> String {
    let words: Vec<String> = argv
        .iter()
        .map(|word| {
            let bare = !word.is_empty()
                && word
                    .chars()
                    .all(|c| c.is_alphanumeric() || "-_./:=,+@%^~".contains(c));
            if bare {
                word.clone()
            } else {
                format!("'{}'", word.replace('\'', "'\\''"))
            }
        })
        .collect();
    plain(&words.join(" "))
}

/// A size: `512`, `1.5K`, `20M`.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "";
    for next in ["K", "M", "G", "T"] {
        if value < 1000.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit.is_empty() || value >= 10.0 {
        format!("{value:.0}{unit}")
    } else {
        format!("{value:.1}{unit}")
    }
}

/// A span of time: `15ms`, `3.2s`, `45s`, `12m`, `3h20m`, `5d`.
pub(crate) fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms}ms"),
        1..=9 => format!("{:.1}s", ms as f64 / 1000.0),
        10..=99 => format!("{seconds}s"),
        100..=5999 => format!("{}m", seconds / 60),
        6000..=86_399 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// How long ago a Unix time in milliseconds was.
pub(crate) fn ago(then: u64) -> String {
    span(now().saturating_sub(then))
}

/// Unix time in milliseconds.
fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// A Unix time in milliseconds as `2025-01-31 23:59:59.123Z`.
pub(crate) fn time(ms: u64) -> String {
    let (days, rest) = ((ms / 86_400_000) as i64, ms % 86_400_000);
    // From the civil calendar: years begin in March, so that the odd day is the last.
    let z = days + 719_468;
    let (era, day) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let date = of_year - (153 * shifted + 2) / 5 + 1;
    let year = year + era * 400 + i64::from(month <= 2);
    let (seconds, millis) = (rest / 1000, rest % 1000);
    format!(
        "{year:04}-{month:02}-{date:02} {:02}:{:02}:{:02}.{millis:03}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// A JSON value in a cell: text without quotes, nothing for nothing.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(all) if all.is_empty() => "-".into(),
        other => other.to_string(),
    }
}

/// The text at `key`, or a dash.
pub(crate) fn at(value: &Value, key: &str) -> String {
    cell(value.get(key).unwrap_or(&Value::Null))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[left("NAME"), right("RSS"), left("COMMAND")]);
        table.row(["a".into(), "12K".into(), "sleep 1".into()]);
        table.row(["läuft".into(), "3M".into(), "x\x1b[2Jy\nz".into()]);
        let plain = "NAME   RSS  COMMAND\na      12K  sleep 1\nläuft   3M  x\u{fffd}[2Jy z\n";
        assert_eq!(table.draw(Look::default()), plain);
        let narrow = Look {
            width: Some(12),
            colour: true,
        };
        assert_eq!(
            table.draw(narrow),
            "\x1b[1mNAME   RSS …\x1b[m\na      12K …\nläuft   3M …\n"
        );
    }

    #[test]
    fn numbers_for_people() {
        for (bytes, text) in [
            (0, "0"),
            (999, "999"),
            (1536, "1.5K"),
            (20 << 20, "20M"),
            (1000 << 20, "1.0G"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (ms, text) in [
            (15, "15ms"),
            (3200, "3.2s"),
            (45_000, "45s"),
            (720_000, "12m"),
            (12_000_000, "3h20m"),
            (5 * 86_400_000, "5d00h"),
        ] {
            assert_eq!(span(ms), text);
        }
    }

    #[test]
    fn times_are_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01 00:00:00.000Z");
        assert_eq!(time(951_782_400_000), "2000-02-29 00:00:00.000Z");
        assert_eq!(time(1_735_689_599_123), "2024-12-31 23:59:59.123Z");
    }

    #[test]
    fn commands_can_be_read() {
        let words = ["sh", "-c", "echo 'a b'", ""].map(String::from);
        assert_eq!(command(&words), r"sh -c 'echo '\''a b'\''' ''");
    }
}
