//! What a terminal shows, kept so that it can be drawn for somebody who joins.
//!
//! It is a `vt100` emulator with a bounded scrollback. What is written waits until it is needed or has become much, and is then
//! taken in one go: of a long run of plain lines only those are drawn that can still be seen afterwards, which gives the same screen
//! at a fraction of the cost (of the others, the colours are drawn).

use std::num::NonZeroU16;

use super::modes::Modes;
use super::osc::Data;

/// How many lines are kept above the screen.
pub(super) const SCROLLBACK: usize = 500;
/// How many bytes wait at the most.
const WAITING: usize = 128 << 10;

/// The size of a screen, as the emulator wants it.
fn size(rows: u16, cols: u16) -> (NonZeroU16, NonZeroU16) {
    // One line or column is the least that can be drawn on, and more than this none can be seen of.
    let bounded = |count: u16| NonZeroU16::new(count.clamp(1, 1000)).unwrap_or(NonZeroU16::MIN);
    (bounded(rows), bounded(cols))
}

/// What a terminal shows.
pub(super) struct Screen {
    emulator: vt100::Parser,
    /// What was written and is not drawn yet.
    waiting: String,
    /// From where on that is plain lines.
    plain_from: usize,
    /// Whether those run on and scroll the whole screen.
    simple: bool,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size = self.emulator.screen().size();
        f.debug_struct("Screen")
            .field("size", &size)
            .finish_non_exhaustive()
    }
}

/// A place on the screen that moves with what scrolls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    row: u16,
    col: u16,
    above: usize,
}

impl Screen {
    pub(super) fn new(rows: u16, cols: u16) -> Self {
        let (rows, cols) = size(rows, cols);
        Self {
            emulator: vt100::Parser::new(rows, cols, SCROLLBACK),
            waiting: String::new(),
            plain_from: 0,
            simple: true,
        }
    }

    /// Takes what was written next.
    pub(super) fn take(&mut self, data: &Data) {
        let drawn = data.drawn.as_ref().unwrap_or(&data.text);
        if data.plain_from > 0 {
            self.plain_from = self.waiting.len() + data.plain_from;
        }
        self.waiting.push_str(drawn);
        self.simple = data.simple;
        if self.waiting.len() > WAITING {
            self.draw();
        }
    }

    /// Draws what waits.
    fn draw(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let (before, plain) = waiting.split_at(std::mem::take(&mut self.plain_from));
        self.emulator.process(before.as_bytes());
        let shown = match self.simple {
            true => self.shown_from(plain),
            false => 0,
        };
        let (gone, shown) = plain.split_at(shown);
        for colours in colours(gone) {
            self.emulator.process(colours.as_bytes());
        }
        self.emulator.process(shown.as_bytes());
    }

    /// From where on plain lines can be seen when all are drawn: behind the end of a line, so that the column is known, and with enough
    /// lines to push out all that was there.
    fn shown_from(&self, plain: &str) -> usize {
        let rows = usize::from(self.emulator.screen().size().0.get());
        let lines = SCROLLBACK + 2 * rows;
        let bytes = plain.as_bytes();
        let end = memchr::memrchr_iter(b'\n', bytes)
            .skip(lines)
            .find(|at| *at > 0 && bytes[at - 1] == b'\r');
        end.map_or(0, |end| end + 1)
    }

    /// It has another size.
    pub(super) fn resize(&mut self, rows: u16, cols: u16) {
        self.draw();
        let (rows, cols) = size(rows, cols);
        self.emulator.set_size(rows, cols);
    }

    /// Whether a full-screen program has the other screen.
    pub(super) fn is_full(&mut self) -> bool {
        self.draw();
        self.emulator.screen().alternate_screen()
    }

    /// Lets go of what is above the screen.
    pub(super) fn forget_scrollback(&mut self) {
        self.draw();
        self.emulator.screen_mut().clear_scrollback();
    }

    /// Where the cursor is.
    pub(super) fn mark(&mut self) -> Mark {
        self.draw();
        let screen = self.emulator.screen();
        let (row, col) = screen.cursor_position();
        Mark {
            row,
            col,
            above: screen.scrollback_len(),
        }
    }

    /// The text between a mark and the cursor, as people see it; none where the mark has scrolled too far to tell.
    pub(super) fn text_since(&mut self, mark: Mark) -> Option<String> {
        let now = self.mark();
        if now.above < mark.above || (now.above == SCROLLBACK && mark.above == SCROLLBACK) {
            // Nobody counts what has left the scrollback: but the prompt is where the cursor was then, or one line up.
            return self.text_above(mark, now);
        }
        let scrolled = now.above - mark.above;
        let row = usize::from(mark.row).checked_sub(scrolled)?;
        let row = u16::try_from(row).ok()?;
        Some(self.between(row, mark.col, now))
    }

    /// The same where it is not known how much has scrolled: at the bottom of a screen, by the lines that the cursor has gone down.
    fn text_above(&self, mark: Mark, now: Mark) -> Option<String> {
        let rows = self.emulator.screen().size().0.get();
        if mark.row < now.row {
            return Some(self.between(mark.row, mark.col, now));
        }
        (mark.row + 1 == rows && now.row > 0).then(|| self.between(now.row - 1, mark.col, now))
    }

    fn between(&self, row: u16, col: u16, end: Mark) -> String {
        let screen = self.emulator.screen();
        let text = screen.contents_between(row, col, end.row, end.col);
        text.trim().to_owned()
    }

    /// All that is needed to draw it on an emulator of this size, whatever that showed before: the lines above, the screen, and the
    /// other screen where a full-screen program has it, with cursor, attributes and modes.
    pub(super) fn drawn(&mut self, modes: &Modes) -> String {
        self.draw();
        let mut text = String::from("\x1Bc");
        let full = self.emulator.screen().alternate_screen();
        if full {
            // To the first screen and back, which changes nothing on either.
            self.emulator.process(b"\x1B[?47l");
        }
        self.lines_above(&mut text);
        text.push_str(&self.emulator.screen().contents_formatted());
        if full {
            self.emulator.process(b"\x1B[?47h");
            text.push_str("\x1B[m\x1B[?1049h");
            text.push_str(&self.emulator.screen().contents_formatted());
        }
        let screen = self.emulator.screen();
        text.push_str(&screen.input_mode_formatted());
        // A cursor that waits behind the last column can only be put there by drawing what is in it.
        let back = screen.cursor_state_formatted() + &screen.attributes_formatted();
        modes.restore(screen.cursor_position(), &back, &mut text);
        text
    }

    /// The lines above the screen, and as many empty ones as push them there.
    fn lines_above(&mut self, text: &mut String) {
        let screen = self.emulator.screen_mut();
        let (rows, cols) = screen.size();
        let (rows, cols) = (rows.get(), cols.get());
        let mut left = screen.scrollback_len();
        if left == 0 {
            return;
        }
        let mut wrapped = false;
        while left > 0 {
            screen.set_scrollback(left);
            let shown = left.min(usize::from(rows));
            for (row, line) in (0..).zip(screen.rows_formatted(0, cols)).take(shown) {
                text.push_str(&line);
                if line.contains('\x1B') {
                    text.push_str("\x1B[m");
                }
                wrapped = screen.row_wrapped(row);
                if !wrapped {
                    text.push_str("\r\n");
                }
            }
            left -= shown;
        }
        screen.set_scrollback(0);
        if wrapped {
            text.push_str("\r\n");
        }
        text.extend(std::iter::repeat_n('\n', usize::from(rows) - 1));
    }

    /// The emulator's own view, for tests.
    #[cfg(test)]
    pub(super) fn shown(&mut self) -> &vt100::Screen {
        self.draw();
        self.emulator.screen()
    }
}

/// The colours in plain lines.
fn colours(text: &str) -> impl Iterator<Item = &str> {
    let escapes = memchr::memchr_iter(0x1B, text.as_bytes());
    escapes.filter_map(|at| {
        let end = text[at..].find('m')?;
        Some(&text[at..=at + end])
    })
}
