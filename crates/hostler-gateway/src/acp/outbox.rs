//! What is on its way to a client: a line of bounded length for each of its streams.
//!
//! Who puts something in waits for room, so that what a client has not read is not kept for it here; a conversation's entries
//! wait in its transcript instead, where all clients read them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// How many bytes wait in a line before who adds to it waits. One message more may be there, however large it is.
const ROOM: usize = 256 << 10;

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scope {
    /// It is about the connection.
    Connection,
    /// It is about a conversation.
    Session(String),
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<String>,
    bytes: usize,
    closed: bool,
}

/// One line of messages.
#[derive(Debug, Default)]
pub(super) struct Line {
    state: Mutex<State>,
    room: Notify,
    news: Notify,
    read: AtomicBool,
}

/// The one that reads a line. Another one may when it is dropped.
#[derive(Debug)]
pub(super) struct Reader(Arc<Line>);

impl Reader {
    /// See [`Line::next`].
    pub(super) async fn next(&self) -> Option<String> {
        self.0.next().await
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.read.store(false, Ordering::Release);
    }
}

impl Line {
    /// Becomes its reader, unless there is one.
    pub(super) fn reader(self: &Arc<Self>) -> Option<Reader> {
        let first = !self.read.swap(true, Ordering::AcqRel);
        first.then(|| Reader(self.clone()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message when there is room. `false`: nobody will read it.
    ///
    /// Cancel safe: it is added wholly or not at all.
    pub(super) async fn push(&self, message: String) -> bool {
        // Mostly there is room, and then nothing is to be waited for.
        let mut offered = self.offer(message);
        while let Err(message) = offered {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            offered = self.offer(message);
            if offered.is_err() {
                room.await;
            }
        }
        offered.is_ok_and(|taken| taken)
    }

    /// Adds a message, or gives it back where there is no room. `false`: nobody will read it.
    fn offer(&self, message: String) -> Result<bool, String> {
        let mut state = self.state();
        if state.closed {
            return Ok(false);
        }
        if state.bytes >= ROOM {
            return Err(message);
        }
        state.bytes += message.len();
        state.waiting.push_back(message);
        drop(state);
        self.news.notify_one();
        Ok(true)
    }

    /// The next message that is there.
    pub(super) fn take(&self) -> Option<String> {
        let mut state = self.state();
        let message = state.waiting.pop_front()?;
        let full = state.bytes >= ROOM;
        state.bytes -= message.len();
        let roomy = state.bytes < ROOM;
        drop(state);
        if full && roomy {
            self.room.notify_waiters();
        }
        Some(message)
    }

    /// Waits for the next message. `None`: there is none, and none will come.
    ///
    /// Cancel safe. One reader at a time.
    pub(super) async fn next(&self) -> Option<String> {
        loop {
            let news = self.news.notified();
            if let Some(message) = self.take() {
                return Some(message);
            }
            if self.state().closed {
                return None;
            }
            news.await;
        }
    }

    /// No more comes in; what is there can still be read.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.room.notify_waiters();
        self.news.notify_one();
    }
}

/// All lines of a connection.
#[derive(Debug)]
pub(super) struct Outbox {
    all: Arc<Line>,
    /// One for each conversation, where the transport has a stream for each.
    apart: Option<Mutex<HashMap<String, Arc<Line>>>>,
}

impl Outbox {
    /// One line for all.
    pub(super) fn together() -> Self {
        Self {
            all: Arc::default(),
            apart: None,
        }
    }

    /// A line for the connection, and one for each conversation that [`Self::open`] made one for.
    pub(super) fn apart() -> Self {
        Self {
            all: Arc::default(),
            apart: Some(Mutex::default()),
        }
    }

    fn sessions(&self) -> Option<MutexGuard<'_, HashMap<String, Arc<Line>>>> {
        let apart = self.apart.as_ref()?;
        Some(apart.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The connection's line.
    pub(super) fn connection(&self) -> &Arc<Line> {
        &self.all
    }

    /// The conversation's line, made if there is none.
    pub(super) fn open(&self, session: &str) -> Arc<Line> {
        match self.sessions() {
            Some(mut sessions) => sessions.entry(session.to_owned()).or_default().clone(),
            None => self.all.clone(),
        }
    }

    /// The conversation's line.
    pub(super) fn session(&self, session: &str) -> Option<Arc<Line>> {
        self.sessions()?.get(session).cloned()
    }

    /// How many lines of conversations there are that `known` does not count.
    pub(super) fn others(&self, known: impl Fn(&str) -> bool) -> usize {
        self.sessions().map_or(0, |sessions| {
            sessions.keys().filter(|session| !known(session)).count()
        })
    }

    /// The line that messages of this scope go to.
    pub(super) fn line(&self, scope: &Scope) -> Arc<Line> {
        match scope {
            Scope::Connection => self.all.clone(),
            Scope::Session(session) => self.session(session).unwrap_or_else(|| self.all.clone()),
        }
    }

    /// Lets go of a conversation's line that nobody reads.
    pub(super) fn forget_unread(&self, session: &str) {
        let unread = self
            .session(session)
            .is_some_and(|line| !line.read.load(Ordering::Acquire));
        if unread {
            self.forget(session);
        }
    }

    /// Ends a conversation's line.
    pub(super) fn forget(&self, session: &str) {
        let line = self
            .sessions()
            .and_then(|mut sessions| sessions.remove(session));
        if let Some(line) = line {
            line.close();
        }
    }

    /// Ends all of them.
    pub(super) fn close(&self) {
        self.all.close();
        for line in self
            .sessions()
            .iter()
            .flat_map(|sessions| sessions.values())
        {
            line.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn who_adds_waits_for_room_and_order_stays() {
        let line = Arc::new(Line::default());
        let large = "x".repeat(ROOM);
        assert!(line.push(large.clone()).await);
        let adding = {
            let line = line.clone();
            tokio::spawn(async move {
                for n in 0..1000 {
                    assert!(line.push(n.to_string()).await);
                }
                line.close();
                line.push("late".into()).await
            })
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!adding.is_finished());
        assert_eq!(line.next().await, Some(large));
        for n in 0..1000 {
            assert_eq!(line.next().await, Some(n.to_string()));
        }
        assert_eq!(line.next().await, None);
        assert!(!adding.await.expect("added"));
    }

    #[tokio::test]
    async fn conversations_have_lines_of_their_own_where_there_are_streams_for_them() {
        let outbox = Outbox::apart();
        let scope = Scope::Session("s".into());
        assert!(outbox.line(&scope).push("before".into()).await);
        let line = outbox.open("s");
        assert!(outbox.line(&scope).push("after".into()).await);
        assert_eq!(outbox.connection().next().await.as_deref(), Some("before"));
        assert_eq!(line.next().await.as_deref(), Some("after"));
        outbox.forget("s");
        assert_eq!(line.next().await, None);
        let together = Outbox::together();
        assert!(Arc::ptr_eq(&together.open("s"), together.connection()));
    }
}
