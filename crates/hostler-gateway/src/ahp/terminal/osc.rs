//! Reading what a program writes to its terminal: where sequences begin and end, and what is told by them.
//!
//! The [`Scanner`] takes bytes as they come, cut anywhere, and gives [`Piece`]s that do not depend on how they were cut (but for where
//! one piece of data ends and the next begins). A sequence or a character that is not there whole is held back, so no piece of data
//! ends within one. Taken out are the sequences by which shells mark their commands (OSC 133, as FinalTerm and most shells have it,
//! and OSC 633, as Visual Studio Code has it): the specification wants them stripped. Titles (OSC 0 and 2) and working directories (OSC
//! 7, OSC 9;9, OSC 1337;CurrentDir, OSC 633;P;Cwd) are told and, where they mean something to an emulator, left in.
//!
//! A string sequence longer than [`HELD`] is passed on as it comes; after [`LONGEST`] it is ended for the readers, and the rest of it is
//! dropped. So nothing that a program writes takes more than that.

use super::modes::Modes;
use super::told::{self, Told};

/// How much of a sequence is held back.
const HELD: usize = 64 << 10;
/// How much of one string sequence (such as an image) is passed on.
const LONGEST: usize = 8 << 20;
/// How long a control sequence may be; longer ones are noise.
const CONTROL: usize = 256;

/// What was read.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    /// Output for emulators.
    Data(Data),
    /// What was told by a sequence.
    Told(Told),
}

/// Output, with what is to be known of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Data {
    /// The text, with its sequences.
    pub(super) text: String,
    /// The same for the screen that is kept here, where that differs: it knows no line drawing characters.
    pub(super) drawn: Option<String>,
    /// Where, in what is drawn, nothing follows but text, ends of lines and colours.
    pub(super) plain_from: usize,
    /// Whether it asks the emulator something, which answers as though it were typed.
    pub(super) asks: bool,
    /// Whether it moves about on the screen, so that it looks right on one of the same size only.
    pub(super) moves: bool,
    /// Whether, after it, text runs on and the whole screen scrolls.
    pub(super) simple: bool,
}

impl Data {
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        if let Some(drawn) = &mut self.drawn {
            drawn.push_str(text);
        }
    }

    fn push_drawn(&mut self, text: &str, drawn: &str) {
        self.drawn
            .get_or_insert_with(|| self.text.clone())
            .push_str(drawn);
        self.text.push_str(text);
    }

    fn drawn_len(&self) -> usize {
        self.drawn.as_ref().unwrap_or(&self.text).len()
    }
}

/// Which sequence is passed on as it comes.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Long {
    /// Whether the bell ends it.
    bell: bool,
    /// How much of it went on.
    passed: usize,
}

/// Reads what a program writes.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// The beginning of a character.
    partial: Vec<u8>,
    /// A sequence that is not there whole.
    held: String,
    /// Up to where that was searched for its end.
    searched: usize,
    long: Option<Long>,
    /// The modes that were set.
    pub(super) modes: Modes,
}

/// How a sequence goes on.
enum Extent {
    /// It has so many bytes.
    Whole(usize),
    /// It is not there whole; up to here there is no end.
    More(usize),
}

impl Scanner {
    /// Whether it is between sequences, so that something may be put there.
    pub(super) fn is_between(&self) -> bool {
        self.long.is_none()
    }

    /// Takes what was written next.
    pub(super) fn feed(&mut self, bytes: &[u8], out: &mut Vec<Piece>) {
        let joined;
        let mut rest = bytes;
        if !self.partial.is_empty() {
            let mut whole = std::mem::take(&mut self.partial);
            whole.extend_from_slice(bytes);
            joined = whole;
            rest = &joined;
        }
        let mut data = Data::default();
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.text(text, &mut data, out);
                    break;
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    self.text(
                        std::str::from_utf8(good).unwrap_or_default(),
                        &mut data,
                        out,
                    );
                    match error.error_len() {
                        Some(count) => {
                            self.text("\u{FFFD}", &mut data, out);
                            rest = &bad[count..];
                        }
                        None => {
                            self.partial = bad.to_vec();
                            break;
                        }
                    }
                }
            }
        }
        self.finish(&mut data, out);
    }

    /// Puts the data so far behind what was read.
    fn finish(&self, data: &mut Data, out: &mut Vec<Piece>) {
        if !data.text.is_empty() {
            data.simple = self.modes.is_simple();
            out.push(Piece::Data(std::mem::take(data)));
        }
    }

    /// Lets go of what is not there whole: what comes next does not follow it.
    pub(super) fn cut(&mut self) {
        self.partial.clear();
        self.held.clear();
        (self.searched, self.long) = (0, None);
    }

    fn text(&mut self, text: &str, data: &mut Data, out: &mut Vec<Piece>) {
        let mut rest = text;
        if self.long.is_some() {
            rest = self.long(rest, data);
        }
        let joined;
        if !self.held.is_empty() && !rest.is_empty() {
            let mut whole = std::mem::take(&mut self.held);
            whole.push_str(rest);
            joined = whole;
            rest = &joined;
        }
        while !rest.is_empty() {
            let Some(at) = memchr::memchr(0x1B, rest.as_bytes()) else {
                self.plain(rest, data);
                return;
            };
            let (plain, sequence) = rest.split_at(at);
            self.plain(plain, data);
            match extent(sequence.as_bytes(), self.searched) {
                Extent::Whole(count) => {
                    self.searched = 0;
                    let (sequence, after) = sequence.split_at(count);
                    self.sequence(sequence, data, out);
                    rest = after;
                }
                Extent::More(searched) if sequence.len() <= HELD => {
                    self.held.push_str(sequence);
                    self.searched = searched;
                    return;
                }
                Extent::More(_) => {
                    self.searched = 0;
                    let bell = sequence.as_bytes().get(1) == Some(&b']');
                    self.long = Some(Long { bell, passed: 0 });
                    // An escape at its end may be that of its end.
                    let rest = self.long(sequence, data);
                    self.held.push_str(rest);
                    return;
                }
            }
        }
    }

    /// Passes on what belongs to a long sequence; gives back what follows it.
    fn long<'a>(&mut self, text: &'a str, data: &mut Data) -> &'a str {
        let Some(long) = &mut self.long else {
            return text;
        };
        let bytes = text.as_bytes();
        let from = usize::from(long.passed == 0);
        let end = bytes[from..]
            .iter()
            .position(|byte| matches!(byte, 0x1B | 0x18 | 0x1A) || (*byte == 7 && long.bell));
        let (mine, rest) = match end.map(|end| from + end) {
            // The escape begins what is next: as it is in the state machine that all emulators share, it ends the string by itself.
            Some(end) if bytes[end] == 0x1B => text.split_at(end),
            Some(end) => text.split_at(end + 1),
            None => (text, ""),
        };
        let room = LONGEST - long.passed.min(LONGEST);
        if room > 0 {
            let cut = mine.floor_char_boundary(room);
            data.push(&mine[..cut]);
            if cut < mine.len() || room == mine.len() {
                data.push("\x1B\\");
            }
        }
        long.passed = long.passed.saturating_add(mine.len());
        data.moves = true;
        data.plain_from = data.drawn_len();
        if end.is_some() {
            self.long = None;
        }
        rest
    }

    /// Text and control characters.
    fn plain(&mut self, text: &str, data: &mut Data) {
        if text.is_empty() {
            return;
        }
        let odd = |byte: &u8| *byte < 0x20 && !matches!(byte, b'\r' | b'\n' | b'\t' | 7);
        let last = text.as_bytes().iter().rposition(odd);
        match self.modes.draw(text) {
            Some(drawn) => {
                data.push_drawn(text, &drawn);
                data.plain_from = data.drawn_len();
            }
            None => {
                data.push(text);
                if let Some(last) = last {
                    data.plain_from = data.drawn_len() - text.len() + last + 1;
                }
            }
        }
    }

    fn sequence(&mut self, sequence: &str, data: &mut Data, out: &mut Vec<Piece>) {
        let bytes = sequence.as_bytes();
        let mut plain = false;
        match bytes.get(1) {
            Some(b'[') => {
                let last = bytes.last().copied();
                let private = bytes
                    .get(2)
                    .is_some_and(|byte| (0x3C..=0x3F).contains(byte));
                match last {
                    Some(b'm') if !private => plain = true,
                    Some(b'n' | b'c') => data.asks = true,
                    // Which modes are set, and how large the window is.
                    Some(b'p') if sequence.ends_with("$p") => data.asks = true,
                    Some(b't') => data.asks = true,
                    // Which keys the program understands (kitty).
                    Some(b'u') if bytes.get(2) == Some(&b'?') => data.asks = true,
                    // What moves within the line, and modes that are none of the screen's.
                    Some(b'K' | b'P' | b'@' | b'X' | b'C' | b'D' | b'G' | b'`') => {}
                    Some(b'h' | b'l') if !swaps(sequence) => {}
                    _ => data.moves = true,
                }
                self.modes.control(sequence);
            }
            Some(b']') => {
                if let Some(said) = told::of(content(sequence)) {
                    if !said.stripped {
                        data.push(sequence);
                        data.plain_from = data.drawn_len();
                    }
                    self.finish(data, out);
                    out.extend(said.told.map(Piece::Told));
                    return;
                }
                data.asks |= content(sequence).split(';').skip(1).any(|part| part == "?");
            }
            Some(b'P') => data.asks = true,
            Some(b'Z') => data.asks = true,
            _ => {
                data.moves = true;
                self.modes.escape(sequence);
            }
        }
        data.push(sequence);
        if !plain {
            data.plain_from = data.drawn_len();
        }
    }
}

/// Whether it goes from one screen to the other, or changes the width.
fn swaps(sequence: &str) -> bool {
    let private = sequence.strip_prefix("\x1B[?").unwrap_or_default();
    let modes = private.trim_end_matches(['h', 'l']);
    modes
        .split(';')
        .any(|mode| matches!(mode, "3" | "6" | "47" | "1047" | "1049"))
}

/// What stands in a string sequence.
fn content(sequence: &str) -> &str {
    let content = sequence.get(2..).unwrap_or_default();
    let content = content.strip_suffix("\x1B\\").unwrap_or(content);
    content.trim_end_matches(['\x07', '\x18', '\x1A'])
}

/// How long the sequence is that begins here, with an escape; of one that was searched before, from where.
///
/// This is the state machine of DEC's terminals (<https://vt100.net/emu/dec_ansi_parser>) as far as it is about extents. A string
/// sequence ends before the escape of its terminator: the `ESC \` that follows is a sequence of its own, which does nothing.
fn extent(bytes: &[u8], searched: usize) -> Extent {
    match bytes.get(1) {
        None => Extent::More(1),
        // The first one began nothing.
        Some(0x1B) => Extent::Whole(1),
        Some(b'[') => {
            for (at, byte) in bytes.iter().enumerate().skip(2.max(searched)) {
                match byte {
                    0x40..=0x7E | 0x18 | 0x1A => return Extent::Whole(at + 1),
                    0x1B | 0x80.. => return Extent::Whole(at),
                    _ if at >= CONTROL => return Extent::Whole(at + 1),
                    _ => {}
                }
            }
            Extent::More(bytes.len())
        }
        Some(b']' | b'P' | b'X' | b'^' | b'_') => {
            let bell = bytes[1] == b']';
            let from = 2.max(searched);
            let end = bytes[from..]
                .iter()
                .position(|byte| matches!(byte, 0x1B | 0x18 | 0x1A) || (*byte == 7 && bell));
            match end.map(|end| from + end) {
                // With its terminator, where that is there: so that both are stripped together.
                Some(end) if bytes[end] == 0x1B => match bytes.get(end + 1) {
                    Some(b'\\') => Extent::Whole(end + 2),
                    Some(_) => Extent::Whole(end),
                    None => Extent::More(end),
                },
                Some(end) => Extent::Whole(end + 1),
                None => Extent::More(bytes.len()),
            }
        }
        Some(0x20..=0x2F) => {
            for (at, byte) in bytes.iter().enumerate().skip(2.max(searched)) {
                match byte {
                    0x30..=0x7E | 0x18 | 0x1A => return Extent::Whole(at + 1),
                    0x1B | 0x80.. => return Extent::Whole(at),
                    _ if at >= CONTROL => return Extent::Whole(at + 1),
                    _ => {}
                }
            }
            Extent::More(bytes.len())
        }
        Some(0x80..) => Extent::Whole(1),
        Some(_) => Extent::Whole(2),
    }
}
