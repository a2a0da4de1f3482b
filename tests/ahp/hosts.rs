//! The `ahp` crate's own multi-host runtime, unchanged, with two hosts that are replaced.

use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::death::host;
use crate::mirror::{Address, Mirror};
use crate::peer::{Peer, ROOT, message};
use crate::support::{Host, Place, run};

struct Site {
    name: &'static str,
    place: Arc<Place>,
    host: Host,
    address: Address,
    peer: Peer,
}

impl Site {
    async fn new(name: &'static str) -> Self {
        let place = Arc::new(Place::new());
        let host = host(&place, &[]);
        let address = Arc::new(Mutex::new(host.client.clone()));
        let peer = Peer::new(&host.client, "own").await;
        Self {
            name,
            place,
            host,
            address,
            peer,
        }
    }

    /// Another host takes its place; the runtime finds that by itself.
    async fn next(&mut self, killed: bool) {
        if killed {
            self.host.signal(Signal::KILL);
            self.host.ended();
        }
        let place = self.place.clone();
        let args: &[&str] = if killed { &[] } else { &["--takeover"] };
        let next = spawn_blocking(move || host(&place, args));
        let next = next.await.expect("a host");
        let mut last = std::mem::replace(&mut self.host, next);
        spawn_blocking(move || last.ended()).await.expect("it ends");
        *self.address.lock().expect("an address") = self.host.client.clone();
        let back = self.peer.try_back(&self.host.client).await;
        back.expect("it is back");
    }
}

#[test]
fn sessions_of_one_name_on_two_hosts_are_followed_through_their_replacement() {
    run(async {
        let mut sites = [Site::new("one").await, Site::new("two").await];
        let mut mirror = Mirror::new();
        for site in &sites {
            mirror.add(site.name, &site.address).await;
        }
        // The same names in both.
        let mut channels = Vec::new();
        for site in &mut sites {
            let (session, _) = site.peer.open("same").await;
            let chat = json!({"channel": session, "chat": "ahp-chat:/same"});
            site.peer.ask("createChat", chat).await.expect("made");
            site.peer.follow("ahp-chat:/same").await;
            channels = vec![ROOT.to_owned(), session, "ahp-chat:/same".to_owned()];
            for channel in &channels[1..] {
                assert!(mirror.follow(site.name, channel).await);
            }
        }
        let chat = "ahp-chat:/same";
        for round in 0..4 {
            for site in &mut sites {
                let (turn, text) = (format!("t{round}"), format!("echo {} {round}", site.name));
                let said = site.peer.turn(chat, &turn, &text).await;
                assert_eq!(said, format!("{} {round}\n", site.name));
                let draft = json!({"type": "chat/draftChanged", "draft": message(&format!("{} {round}", site.name))});
                // What the runtime dispatches comes to the host that is meant, and is seen by others.
                assert!(mirror.dispatch(site.name, chat, draft).await);
                let drafted = format!("{} {round}", site.name);
                site.peer
                    .until("the draft", |peer| {
                        peer.chat(chat)
                            .draft
                            .is_some_and(|draft| draft.text == drafted)
                    })
                    .await;
                site.peer.settle().await;
                for channel in &channels {
                    let expected = site.peer.state(channel);
                    mirror.until(site.name, channel, &expected).await;
                }
            }
            let [one, two] = &mut sites;
            assert_ne!(one.peer.state(chat), two.peer.state(chat));
            one.next(round % 2 == 0).await;
            if round % 2 == 1 {
                two.next(true).await;
            }
            for site in &mut sites {
                for channel in &channels {
                    let expected = site.peer.state(channel);
                    mirror.until(site.name, channel, &expected).await;
                }
            }
        }
        assert!(mirror.generations >= 8, "{}", mirror.generations);
        for site in &mut sites {
            let gone = json!({"channel": channels[1]});
            site.peer
                .ask("disposeSession", gone)
                .await
                .expect("disposed");
            let none = |peer: &Peer| peer.root().active_sessions == Some(0);
            site.peer.until("none is there", none).await;
            let root = site.peer.state(ROOT);
            mirror.until(site.name, ROOT, &root).await;
            let left = site.host.client.get("/v1/sessions").await.json();
            assert_eq!(left, json!([]));
        }
        mirror.end().await;
    });
}
