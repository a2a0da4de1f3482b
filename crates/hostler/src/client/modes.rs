//! What a program has set on the terminal that it writes to, so that it can be undone when the viewer leaves before it.

use std::collections::BTreeSet;

/// Private modes that change what the next program on a terminal finds: cursor keys, mouse, focus, paste, other screens.
const KNOWN: [u16; 14] = [
    1, 9, 47, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1047, 1049, 2004, 2026,
];
/// Those of other screens.
const SCREENS: [u16; 3] = [47, 1047, 1049];
/// The longest sequence that is looked at.
const LONGEST: usize = 64;

#[derive(Debug, Default, PartialEq)]
enum State {
    #[default]
    Text,
    Escape,
    Sequence(Vec<u8>),
}

/// Follows what is written to a terminal.
#[derive(Debug, Default)]
pub(crate) struct Modes {
    state: State,
    set: BTreeSet<u16>,
    cursor_hidden: bool,
    keypad: bool,
    /// Whether the cursor was put somewhere, as programs do that draw on the whole screen.
    placed: bool,
}

impl Modes {
    /// Takes what is written next.
    pub(crate) fn follow(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            match &mut self.state {
                State::Text => match bytes.iter().position(|byte| *byte == 0x1b) {
                    Some(at) => {
                        self.state = State::Escape;
                        bytes = &bytes[at + 1..];
                        continue;
                    }
                    None => return,
                },
                State::Escape => {
                    self.state = match first {
                        b'[' => State::Sequence(Vec::new()),
                        0x1b => State::Escape,
                        _ => State::Text,
                    };
                    match first {
                        b'=' => self.keypad = true,
                        b'>' => self.keypad = false,
                        // A reset of all.
                        b'c' => *self = Self::default(),
                        _ => {}
                    }
                }
                State::Sequence(parameters) => match first {
                    0x20..=0x3f if parameters.len() < LONGEST => parameters.push(*first),
                    0x40..=0x7e => {
                        let parameters = std::mem::take(parameters);
                        self.state = State::Text;
                        self.sequence(&parameters, *first);
                    }
                    0x1b => self.state = State::Escape,
                    _ => self.state = State::Text,
                },
            }
            bytes = rest;
        }
    }

    fn sequence(&mut self, parameters: &[u8], last: u8) {
        match (parameters.first(), last) {
            (Some(b'?'), b'h' | b'l') => {}
            (_, b'H' | b'f' | b'd') => {
                self.placed = true;
                return;
            }
            _ => return,
        }
        let on = last == b'h';
        let text = String::from_utf8_lossy(&parameters[1..]);
        for mode in text.split(';').filter_map(|mode| mode.parse().ok()) {
            match mode {
                25 => self.cursor_hidden = !on,
                mode if !KNOWN.contains(&mode) => {}
                mode if on => {
                    self.set.insert(mode);
                }
                mode => {
                    self.set.remove(&mode);
                }
            }
        }
    }

    /// Whether it looks as if a program draws on the whole screen, which has to be asked to draw it again.
    pub(crate) fn is_full_screen(&self) -> bool {
        SCREENS.iter().any(|mode| self.set.contains(mode)) || self.placed
    }

    /// What sets it all on another terminal.
    pub(crate) fn redo(&self) -> String {
        let mut out = String::new();
        let (screens, others): (Vec<&u16>, Vec<&u16>) =
            self.set.iter().partition(|mode| SCREENS.contains(mode));
        for mode in screens.into_iter().chain(others) {
            out.push_str(&format!("\x1b[?{mode}h"));
        }
        if self.keypad {
            out.push_str("\x1b=");
        }
        if self.cursor_hidden {
            out.push_str("\x1b[?25l");
        }
        out
    }

    /// What undoes all that is set.
    pub(crate) fn undo(&self) -> String {
        let mut out = String::new();
        // The other screen last, for it takes the cursor back to where it was.
        for mode in &self.set {
            if !SCREENS.contains(mode) {
                out.push_str(&format!("\x1b[?{mode}l"));
            }
        }
        if self.keypad {
            out.push_str("\x1b>");
        }
        if self.cursor_hidden {
            out.push_str("\x1b[?25h");
        }
        for mode in SCREENS {
            if self.set.contains(&mode) {
                out.push_str(&format!("\x1b[?{mode}l"));
            }
        }
        if !out.is_empty() {
            out.push_str("\x1b[m");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(text: &str) -> Modes {
        let mut whole = Modes::default();
        whole.follow(text.as_bytes());
        let mut pieces = Modes::default();
        for byte in text.as_bytes() {
            pieces.follow(&[*byte]);
        }
        assert_eq!(whole.undo(), pieces.undo(), "the pieces do not matter");
        whole
    }

    #[test]
    fn what_is_set_is_undone() {
        assert_eq!(after("plain \x1b[31mred\x1b[m").undo(), "");
        assert_eq!(after("\x1b[?2004h$ ").undo(), "\x1b[?2004l\x1b[m");
        assert_eq!(after("\x1b[?2004h$ \x1b[?2004l").undo(), "");
        let vim = after("\x1b[?1049h\x1b[?1h\x1b=\x1b[?1000;1006h\x1b[?25l");
        assert!(vim.is_full_screen());
        assert_eq!(
            vim.undo(),
            "\x1b[?1l\x1b[?1000l\x1b[?1006l\x1b>\x1b[?25h\x1b[?1049l\x1b[m"
        );
        let again = after(&vim.redo());
        assert_eq!(again.undo(), vim.undo(), "it can be carried over");
        let left = after("\x1b[?1049h\x1b[?1l\x1b>\x1b[?25h\x1b[?1049l");
        assert!(!left.is_full_screen());
        assert_eq!(left.undo(), "");
        assert_eq!(after("\x1b[?1049h\x1bc").undo(), "");
    }

    #[test]
    fn nonsense_is_followed_without_harm() {
        let long = format!("\x1b[{}h\x1b[?1h", "9".repeat(1000));
        assert_eq!(after(&long).undo(), "\x1b[?1l\x1b[m");
        assert_eq!(after("\x1b[?99999999h\x1b[?;;h\x1b[\x1b[?h").undo(), "");
        assert!(after("\x1b[10;1H~").is_full_screen());
    }
}
