//! The modes of an emulator that the kept screen does not know, and its line drawing characters.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Private modes that are restored for who joins: wrapping, the blinking cursor, focus, wheel and mouse encodings, colour schemes.
const KNOWN: [u16; 8] = [5, 7, 12, 1004, 1007, 1015, 1016, 2031];

/// What DEC's terminals draw for `` ` `` to `~` when line drawing is on (VT100 user guide, table 3-9).
const DRAWN: [char; 31] = [
    '◆', '▒', '␉', '␌', '␍', '␊', '°', '±', '␤', '␋', '┘', '┐', '┌', '└', '┼', '⎺', '⎻', '─', '⎼',
    '⎽', '├', '┤', '┴', '┬', '│', '≤', '≥', 'π', '≠', '£', '·',
];

/// What was set.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Modes {
    /// The lines that scroll, from 1 on, where not all do.
    region: Option<(u16, u16)>,
    /// Whether positions count from there.
    origin: bool,
    /// Whether text pushes text aside.
    insert: bool,
    private: BTreeMap<u16, bool>,
    /// Whether the first and the second set of characters are line drawing ones.
    graphics: [bool; 2],
    /// Whether the second one is in use.
    shifted: bool,
}

impl Modes {
    /// A control sequence: `ESC [ … x`.
    pub(super) fn control(&mut self, sequence: &str) {
        let Some(body) = sequence.strip_prefix("\x1B[") else {
            return;
        };
        let Some(last) = body.chars().last() else {
            return;
        };
        let body = &body[..body.len() - last.len_utf8()];
        match (last, body.strip_prefix('?')) {
            ('r', None) => self.set_region(body),
            ('h' | 'l', Some(modes)) => {
                for mode in modes.split(';').filter_map(|mode| mode.parse().ok()) {
                    self.set_private(mode, last == 'h');
                }
            }
            ('h' | 'l', None) if body.split(';').any(|mode| mode == "4") => {
                self.insert = last == 'h';
            }
            ('p', None) if body == "!" => *self = Self::default(),
            _ => {}
        }
    }

    fn set_region(&mut self, body: &str) {
        if body
            .bytes()
            .any(|byte| !byte.is_ascii_digit() && byte != b';')
        {
            return;
        }
        let mut lines = body.split(';').map(|line| line.parse().unwrap_or(0));
        let top: u16 = lines.next().unwrap_or(0);
        let bottom: u16 = lines.next().unwrap_or(0);
        self.region = (top > 1 || bottom > 0).then_some((top.max(1), bottom));
    }

    fn set_private(&mut self, mode: u16, on: bool) {
        match mode {
            6 => self.origin = on,
            // Another screen, which scrolls as a whole.
            47 | 1047 | 1049 => (self.region, self.origin) = (None, false),
            mode if KNOWN.contains(&mode) => {
                self.private.insert(mode, on);
            }
            _ => {}
        }
    }

    /// An escape sequence that is neither a control sequence nor a string.
    pub(super) fn escape(&mut self, sequence: &str) {
        match sequence.get(1..) {
            Some("c") => *self = Self::default(),
            Some(set) if set.starts_with('(') => self.graphics[0] = set == "(0",
            Some(set) if set.starts_with(')') => self.graphics[1] = set == ")0",
            _ => {}
        }
    }

    /// What is drawn for this text, where that is something else.
    pub(super) fn draw(&mut self, text: &str) -> Option<String> {
        if self.graphics == [false; 2] {
            let bytes = text.as_bytes();
            if let Some(at) = memchr::memrchr2(0x0E, 0x0F, bytes) {
                self.shifted = bytes[at] == 0x0E;
            }
            return None;
        }
        let mut drawn = String::with_capacity(text.len());
        let mut differs = false;
        for character in text.chars() {
            match character {
                '\x0E' | '\x0F' => self.shifted = character == '\x0E',
                '`'..='~' if self.graphics[usize::from(self.shifted)] => {
                    differs = true;
                    drawn.push(DRAWN[character as usize - '`' as usize]);
                    continue;
                }
                _ => {}
            }
            drawn.push(character);
        }
        differs.then_some(drawn)
    }

    /// The size has changed.
    pub(super) fn resized(&mut self) {
        self.region = None;
    }

    /// Whether text runs from the left to the right, wraps, and the whole screen scrolls.
    pub(super) fn is_simple(&self) -> bool {
        self.region.is_none()
            && !self.origin
            && !self.insert
            && self.private.get(&7).is_none_or(|wraps| *wraps)
    }

    /// Sets them in an emulator that was just reset and has the cursor in this line and column, from 0 on; `back` puts it there again.
    pub(super) fn restore(&self, (line, column): (u16, u16), back: &str, to: &mut String) {
        // Writing to a string cannot fail.
        if let Some((top, bottom)) = self.region {
            // This puts the cursor into the corner.
            let _ = match bottom {
                0 => write!(to, "\x1B[{top}r"),
                _ => write!(to, "\x1B[{top};{bottom}r"),
            };
            if !self.origin {
                to.push_str(back);
            }
        }
        if self.origin {
            let top = self.region.map_or(1, |(top, _)| top);
            let line = (line + 1).saturating_sub(top - 1).max(1);
            let _ = write!(to, "\x1B[?6h\x1B[{line};{}H", column + 1);
        }
        if self.insert {
            to.push_str("\x1B[4h");
        }
        for (mode, on) in &self.private {
            let last = if *on { 'h' } else { 'l' };
            let _ = write!(to, "\x1B[?{mode}{last}");
        }
        for (set, first) in self.graphics.iter().zip(['(', ')']) {
            if *set {
                let _ = write!(to, "\x1B{first}0");
            }
        }
        if self.shifted {
            to.push('\x0E');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_drawing_is_drawn() {
        let mut modes = Modes::default();
        assert_eq!(modes.draw("lqk"), None);
        modes.escape("\x1B(0");
        assert_eq!(modes.draw("lqk").as_deref(), Some("┌─┐"));
        modes.escape("\x1B(B");
        assert_eq!(modes.draw("lqk"), None);
        modes.escape("\x1B)0");
        assert_eq!(modes.draw("q\x0Eq\x0Fq").as_deref(), Some("q\x0E─\x0Fq"));
    }

    #[test]
    fn modes_are_restored_as_they_were_set() {
        let mut modes = Modes::default();
        for sequence in ["\x1B[2;10r", "\x1B[?7;1004h", "\x1B[4h", "\x1B[?7l"] {
            modes.control(sequence);
        }
        let mut text = String::new();
        modes.restore((4, 2), "\x1B[5;3H", &mut text);
        assert_eq!(text, "\x1B[2;10r\x1B[5;3H\x1B[4h\x1B[?7l\x1B[?1004h");
        assert!(!modes.is_simple());
        modes.control("\x1B[!p");
        assert_eq!(modes, Modes::default());
        assert!(modes.is_simple());
    }
}
