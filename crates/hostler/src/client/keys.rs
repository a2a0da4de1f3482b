//! The keys that detach: typed one after the other, they are not passed on.

use std::str::FromStr;

/// A sequence of keys, as bytes that a terminal sends for them. None: nothing detaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    bytes: Vec<u8>,
    text: String,
}

/// What detaches where nothing else is said.
pub(crate) const DEFAULT: &str = "ctrl-p,ctrl-q";

impl FromStr for Keys {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const ALLOWED: &str = "letters and ctrl-LETTER (or ctrl-@, [, \\, ], ^, _), with commas between, are allowed, or `none`";
        let mut bytes = Vec::new();
        if text != "none" {
            for key in text.split(',') {
                bytes.push(byte(key).ok_or(ALLOWED)?);
            }
        }
        Ok(Self {
            bytes,
            text: text.to_owned(),
        })
    }
}

impl std::fmt::Display for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

fn byte(key: &str) -> Option<u8> {
    let (control, key) = match key.get(..5).map(str::to_ascii_lowercase) {
        Some(start) if start == "ctrl-" => (true, &key[5..]),
        _ => (false, key),
    };
    let [byte] = key.as_bytes() else { return None };
    match (control, byte.to_ascii_uppercase()) {
        (false, _) if byte.is_ascii_graphic() => Some(*byte),
        (true, upper @ b'@'..=b'_') => Some(upper - b'@'),
        _ => None,
    }
}

/// Looks for the keys in what is typed.
#[derive(Debug)]
pub(crate) struct Scanner {
    keys: Vec<u8>,
    held: Vec<u8>,
}

impl Scanner {
    /// Looks for these.
    pub(crate) fn new(keys: &Keys) -> Self {
        Self {
            keys: keys.bytes.clone(),
            held: Vec::new(),
        }
    }

    /// Takes what was typed, and appends to `out` what is to be passed on: all but what may become the keys. Whether the keys
    /// were among it; then the rest is gone.
    pub(crate) fn feed(&mut self, typed: &[u8], out: &mut Vec<u8>) -> bool {
        if self.keys.is_empty() {
            out.extend_from_slice(typed);
            return false;
        }
        for byte in typed {
            self.held.push(*byte);
            while !self.keys.starts_with(&self.held) {
                out.push(self.held.remove(0));
            }
            if self.held == self.keys {
                self.held.clear();
                return true;
            }
        }
        false
    }

    /// Whether something is held back.
    pub(crate) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// What was held back, when no further key came.
    pub(crate) fn release(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Keys {
        text.parse().expect(text)
    }

    #[test]
    fn keys_are_read_as_people_write_them() {
        assert_eq!(keys(DEFAULT).bytes, [0x10, 0x11]);
        assert_eq!(keys("ctrl-\\,CTRL-\\").bytes, [0x1c, 0x1c]);
        assert_eq!(keys("ctrl-a,d").bytes, [1, b'd']);
        assert_eq!(keys("~,.").bytes, b"~.");
        assert_eq!(keys("none").bytes, b"");
        for text in ["", "ctrl-", "ctrl-é", "ab", "a,", "alt-x", "ctrl-1", " "] {
            assert!(text.parse::<Keys>().is_err(), "{text:?}");
        }
    }

    /// What passes, and whether it detached, when typed in pieces of each size.
    fn typed(text: &str, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut answers: Vec<(Vec<u8>, bool)> = (1..=bytes.len().max(1))
            .map(|size| {
                let mut scanner = Scanner::new(&keys(text));
                let mut out = Vec::new();
                let detached = bytes
                    .chunks(size)
                    .any(|chunk| scanner.feed(chunk, &mut out));
                if !detached {
                    out.extend(scanner.release());
                }
                (out, detached)
            })
            .collect();
        answers.dedup();
        assert_eq!(answers.len(), 1, "the pieces do not matter: {answers:?}");
        answers.remove(0)
    }

    #[test]
    fn only_the_whole_sequence_detaches() {
        assert_eq!(typed(DEFAULT, b"ls\x10\x11x"), (b"ls".into(), true));
        assert_eq!(typed(DEFAULT, b"\x10\x10\x11"), (b"\x10".into(), true));
        assert_eq!(typed(DEFAULT, b"\x10a\x11"), (b"\x10a\x11".into(), false));
        assert_eq!(typed(DEFAULT, b"\x10"), (b"\x10".into(), false));
        assert_eq!(typed("a,a,b", b"aaab"), (b"a".into(), true));
        assert_eq!(typed("a,b,a,c", b"ababac"), (b"ab".into(), true));
        assert_eq!(typed("none", b"\x10\x11"), (b"\x10\x11".into(), false));
    }

    #[test]
    fn what_may_become_the_keys_waits() {
        let mut scanner = Scanner::new(&keys(DEFAULT));
        let mut out = Vec::new();
        assert!(!scanner.feed(b"a\x10", &mut out));
        assert_eq!((out.as_slice(), scanner.holds()), (&b"a"[..], true));
        assert_eq!(scanner.release(), b"\x10");
        assert!(!scanner.holds());
    }
}
