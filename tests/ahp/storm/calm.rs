//! After the storm: all turns end, all clients agree, and nothing is left.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;

use super::{CLIENTS, HERE, World, ask, may_be};
use crate::peer::{Peer, ROOT, queue};
use crate::support::long;

impl World {
    /// All turns end and nothing waits.
    pub(super) async fn calm(&mut self) {
        while let Some(done) = self.under_way.join_next().await {
            done.expect("no refusal that must not be");
        }
        for at in 0..CLIENTS {
            if self.guests[at].away {
                self.comes(at).await;
            }
        }
        let until = Instant::now() + long();
        loop {
            self.witness.settle().await;
            self.look_around().await;
            let mut busy = Vec::new();
            for chat in self.there("ahp-chat:") {
                let state = self.witness.chat(&chat);
                for waits in state.queued_messages.iter().flatten() {
                    let action = json!({"type": "chat/pendingMessageRemoved", "kind": "queued", "id": waits.id});
                    self.witness.dispatch(&chat, action).await;
                }
                if let Some(turn) = &state.active_turn {
                    let action =
                        json!({"type": "chat/turnCancelled", "turnId": turn.id, "duration": 0});
                    self.witness.dispatch(&chat, action).await;
                }
                if state.active_turn.is_some() || !queue(&state).is_empty() {
                    busy.push(state);
                }
            }
            if busy.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "these do not end: {busy:#?}");
            sleep(Duration::from_millis(30)).await;
        }
    }

    /// All have the same as the host, in the end.
    pub(super) async fn agree(&mut self) {
        let all: Vec<String> = self.witness.states.keys().cloned().collect();
        let until = Instant::now() + long();
        let mut expected = Vec::new();
        // What a terminal's program writes may still be on its way.
        'again: loop {
            expected.clear();
            let mut fresh = Peer::new(&self.host.client, "fresh").await;
            for uri in &all {
                may_be(uri, fresh.try_follow(uri, None, None).await);
            }
            self.witness.settle().await;
            let guests = self.guests.iter_mut().map(|guest| &mut guest.peer);
            for peer in guests.chain([&mut self.witness]) {
                peer.settle().await;
                for uri in all.iter().filter(|uri| peer.states.contains_key(*uri)) {
                    let (has, is) = (peer.state(uri), fresh.state(uri));
                    if has != is {
                        assert!(
                            Instant::now() < until,
                            "{uri} of {}\nis {has:#}\nand not {is:#}",
                            peer.name
                        );
                        sleep(Duration::from_millis(50)).await;
                        continue 'again;
                    }
                }
            }
            expected.extend(all.iter().map(|uri| (uri.clone(), fresh.state(uri))));
            break;
        }
        for uri in self.mirror.followed(HERE) {
            if let Some((_, expected)) = expected.iter().find(|(one, _)| *one == uri) {
                self.mirror.until(HERE, &uri, expected).await;
            }
        }
    }

    /// What the clients had at any number is what the witness had then. How many times that was looked at.
    pub(super) fn agreed(&self) -> usize {
        let mut compared = 0;
        for guest in &self.guests {
            for (uri, past) in &guest.peer.past {
                let Some(known) = self.witness.past.get(uri) else {
                    continue;
                };
                for (seq, state) in past {
                    let Some(state) = state else { continue };
                    if let Some((at, Some(known))) = known.range(..=seq).next_back() {
                        let name = &guest.peer.name;
                        assert_eq!(
                            state, known,
                            "{name} and the witness, {uri}, at {seq} and {at}"
                        );
                        compared += 1;
                    }
                }
            }
        }
        compared
    }

    /// All is disposed of, by many at once, and nothing is left.
    pub(super) async fn end(mut self) {
        let mut asked = JoinSet::new();
        let (sessions, terminals) = (self.there("ahp-session:"), self.there("ahp-terminal:"));
        let each = terminals.iter().map(|uri| ("disposeTerminal", uri));
        for (method, uri) in each.chain(sessions.iter().map(|uri| ("disposeSession", uri))) {
            let at = self.guest();
            let client = self.guests[at].peer.client.clone();
            let params = json!({"channel": uri, "_meta": {"dev.hostler/grace": 0.2}});
            asked
                .spawn(async move { may_be(method, ask(&client, method, params).await.map(drop)) });
        }
        for done in asked.join_all().await {
            done
        }
        assert!(self.place.living().is_empty(), "{:?}", self.place.living());
        let nothing = |peer: &Peer| {
            let root = peer.root();
            root.active_sessions == Some(0) && root.terminals.is_none_or(|all| all.is_empty())
        };
        self.witness.until("nothing is left", nothing).await;
        let root = self.witness.state(ROOT);
        self.mirror.until(HERE, ROOT, &root).await;
        self.mirror.end().await;
        let host = self.host;
        let (status, said) = spawn_blocking(|| host.stop()).await.expect("it stops");
        assert!(status.success(), "{status:?}\n{said}");
    }
}
