//! What becomes of a terminal's output: actions for its channel, and what has to be known to make more of them.
//!
//! A model does no input or output and knows no clock. Its actions, reduced by the reducer of the `ahp` crate, are the channel's state in
//! the host and in every client.

use ahp_types::actions::{
    StateAction, TerminalClearedAction, TerminalCommandDetectionAvailableAction,
    TerminalCommandExecutedAction, TerminalCommandFinishedAction, TerminalCwdChangedAction,
    TerminalDataAction, TerminalTitleChangedAction,
};

use super::osc::{Data, Piece, Scanner};
use super::screen::{Mark, Screen};
use super::told::Told;

/// How many bytes of content there may be beyond a base before it becomes another base.
pub(super) const BEYOND: usize = 1 << 20;
/// What a part of the content counts besides its text.
const PART: usize = 256;

/// A command that runs.
#[derive(Debug, Clone)]
struct Running {
    id: String,
    line: String,
    /// Since when: Unix time in milliseconds.
    since: i64,
}

/// What becomes of a terminal's output.
#[derive(Debug)]
pub(super) struct Model {
    scanner: Scanner,
    screen: Screen,
    title: String,
    directory: Option<String>,
    /// How much content there is, and how much of it is the base.
    content: usize,
    base: usize,
    /// Whether anything since the base asks the emulator something.
    asks: bool,
    /// Whether anything since the base moves about on the screen, and whether the size has changed since.
    moves: bool,
    resized: bool,
    /// Whether it is known that the shell marks its commands.
    marks: bool,
    commands: u64,
    running: Option<Running>,
    /// Where what is typed begins.
    typing: Option<Mark>,
    line: Option<String>,
}

impl Model {
    pub(super) fn new(rows: u16, cols: u16, title: String, directory: Option<String>) -> Self {
        Self {
            scanner: Scanner::default(),
            screen: Screen::new(rows, cols),
            title,
            directory,
            content: 0,
            base: 0,
            asks: false,
            moves: false,
            resized: false,
            marks: false,
            commands: 0,
            running: None,
            typing: None,
            line: None,
        }
    }

    /// Its title.
    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// The shell's directory, as a `file:` URI.
    pub(super) fn directory(&self) -> Option<&str> {
        self.directory.as_deref()
    }

    /// Whether the shell marks its commands.
    pub(super) fn marks(&self) -> bool {
        self.marks
    }

    /// Takes what the program wrote next, at this time in Unix milliseconds.
    pub(super) fn output(&mut self, bytes: &[u8], now: i64) -> Vec<StateAction> {
        let mut pieces = Vec::new();
        self.scanner.feed(bytes, &mut pieces);
        let mut actions = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Data(data) => self.data(data, &mut actions),
                Piece::Told(told) => self.told(told, now, &mut actions),
            }
        }
        if self.content > self.base + BEYOND && self.scanner.is_between() {
            actions.extend(self.rebase());
        }
        actions
    }

    /// Output is missing here.
    pub(super) fn gap(&mut self) {
        self.scanner.cut();
    }

    fn data(&mut self, data: Data, actions: &mut Vec<StateAction>) {
        self.screen.take(&data);
        self.asks |= data.asks;
        self.moves |= data.moves;
        self.content += data.text.len();
        if let Some(StateAction::TerminalData(last)) = actions.last_mut() {
            last.data.push_str(&data.text);
            return;
        }
        actions.push(StateAction::TerminalData(TerminalDataAction {
            data: data.text,
        }));
    }

    fn told(&mut self, told: Told, now: i64, actions: &mut Vec<StateAction>) {
        match told {
            Told::Title(title) => {
                if title != self.title {
                    self.title.clone_from(&title);
                    let action = TerminalTitleChangedAction { title };
                    actions.push(StateAction::TerminalTitleChanged(action));
                }
                return;
            }
            Told::Directory(cwd) => {
                if self.directory.as_ref() != Some(&cwd) {
                    self.directory = Some(cwd.clone());
                    let action = TerminalCwdChangedAction { cwd };
                    actions.push(StateAction::TerminalCwdChanged(action));
                }
                return;
            }
            _ => {}
        }
        if !self.marks {
            self.marks = true;
            let action = TerminalCommandDetectionAvailableAction {};
            actions.push(StateAction::TerminalCommandDetectionAvailable(action));
        }
        match told {
            Told::Prompt => {
                self.finish(None, now, actions);
                (self.typing, self.line) = (None, None);
            }
            Told::Typing => {
                self.finish(None, now, actions);
                self.typing = Some(self.screen.mark());
            }
            Told::Line(line) => self.line = Some(line),
            Told::Executed(line) => {
                self.finish(None, now, actions);
                let typed = self.typing.take();
                let line = line.or_else(|| self.line.take());
                let line = line.or_else(|| self.screen.text_since(typed?));
                self.line = None;
                self.execute(line.unwrap_or_default(), now, actions);
            }
            Told::Finished(code) => self.finish(code, now, actions),
            Told::Title(_) | Told::Directory(_) => {}
        }
    }

    fn execute(&mut self, line: String, now: i64, actions: &mut Vec<StateAction>) {
        self.commands += 1;
        let running = Running {
            id: format!("command-{}", self.commands),
            line,
            since: now,
        };
        actions.push(executed(&running));
        self.content += PART + running.line.len();
        self.running = Some(running);
    }

    fn finish(&mut self, code: Option<i64>, now: i64, actions: &mut Vec<StateAction>) {
        let Some(running) = self.running.take() else {
            return;
        };
        let action = TerminalCommandFinishedAction {
            command_id: running.id,
            exit_code: code,
            duration_ms: Some((now - running.since).max(0)),
        };
        actions.push(StateAction::TerminalCommandFinished(action));
        // What follows is a part of its own.
        self.content += PART;
    }

    /// Makes what is seen the base of the content: what came before is let go of. Nothing where that would be within a sequence.
    pub(super) fn rebase(&mut self) -> Vec<StateAction> {
        if !self.scanner.is_between() {
            return Vec::new();
        }
        let cleared = StateAction::TerminalCleared(TerminalClearedAction {});
        let mut actions = vec![cleared];
        actions.extend(self.base());
        actions
    }

    /// The base alone, for content that is empty.
    pub(super) fn base(&mut self) -> Vec<StateAction> {
        let data = self.screen.drawn(&self.scanner.modes);
        self.content = data.len() + PART;
        let mut actions = vec![StateAction::TerminalData(TerminalDataAction { data })];
        if let Some(running) = &self.running {
            self.content += PART + running.line.len();
            actions.push(executed(running));
        }
        self.base = self.content;
        (self.asks, self.moves, self.resized) = (false, false, false);
        actions
    }

    /// Whether who joins is better given a base than what was written since the last one: where that would make the emulator answer
    /// what was asked long ago, where it was written for another size, or where a full-screen program has drawn over itself.
    pub(super) fn wants_base(&mut self) -> bool {
        if self.content == self.base || !self.scanner.is_between() {
            return false;
        }
        self.asks || (self.moves && self.resized) || (self.moves && self.screen.is_full())
    }

    /// A client has cleared it: what is above the screen is let go of, and the screen is drawn anew.
    pub(super) fn clear(&mut self) -> Vec<StateAction> {
        if !self.scanner.is_between() {
            return Vec::new();
        }
        self.screen.forget_scrollback();
        self.base()
    }

    /// It has another size.
    pub(super) fn resize(&mut self, rows: u16, cols: u16) {
        self.scanner.modes.resized();
        self.screen.resize(rows, cols);
        self.resized = true;
    }

    /// A client has renamed it.
    pub(super) fn rename(&mut self, title: String) {
        self.title = title;
    }

    /// What is seen, for tests.
    #[cfg(test)]
    pub(super) fn shown(&mut self) -> &vt100::Screen {
        self.screen.shown()
    }

    /// What draws it, for tests.
    #[cfg(test)]
    pub(super) fn drawn(&mut self) -> String {
        self.screen.drawn(&self.scanner.modes)
    }
}

fn executed(running: &Running) -> StateAction {
    StateAction::TerminalCommandExecuted(TerminalCommandExecutedAction {
        command_id: running.id.clone(),
        command_line: running.line.clone(),
        timestamp: running.since,
    })
}
