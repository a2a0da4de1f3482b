//! Random schedules from a seed: clients that come and go, hosts that are killed and taken over, and one truth.
//!
//! `HOSTLER_SEED` gives the seed, `HOSTLER_SESSIONS` how many sessions there are in all. `HOSTLER_STORM_SAY=1` has it say what it
//! does.
//!
//! One client, the witness, follows everything. What any other one had at any number is compared with what the witness had
//! then; at the end all are compared with the snapshots of a new client.

mod calm;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ahp::{Client, ClientError};
use ahp_types::state::SnapshotState;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;

use crate::death::host;
use crate::mirror::{Address, Mirror};
use crate::peer::{Peer, ROOT, message, prompt};
use crate::random::{Random, number};
use crate::support::{Host, Place, run};

/// How many clients there are besides the witness and the one of the multi-host runtime.
const CLIENTS: usize = 5;
/// How many sessions are open at once.
const AT_ONCE: usize = 12;
/// The one host of the multi-host runtime here.
const HERE: &str = "here";

/// What the built-in agent is told.
const PROMPTS: [&str; 8] = [
    "echo short",
    "for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 0.01; done",
    "for i in $(seq 1 40); do echo more $i; done; echo wrong >&2; false",
    "printf 'é€😀%.0s' 1 2 3 4 5",
    "head -c 20000 /dev/zero | tr '\\0' x",
    "setsid sh -c 'trap \"\" TERM; sleep 1000' > /dev/null 2>&1 & echo left",
    "sleep 1000",
    "echo begun; sleep 0.2; echo ended",
];
/// What runs in terminals.
const PROGRAMS: [&str; 3] = [
    "cat",
    "seq 1 300; exec cat",
    r"printf '\033[?1049h\033[H\033[2J\033[3;5Hmiddle'; while read x; do printf '\033[5;1Hmore %s' $x; done",
];

/// Whether a client is connected, and when that ends why.
struct Guest {
    peer: Peer,
    away: bool,
}

struct World {
    place: Arc<Place>,
    host: Host,
    address: Address,
    random: Random,
    witness: Peer,
    guests: Vec<Guest>,
    mirror: Mirror,
    /// How many sessions, terminals and turns there were.
    made: u64,
    names: u64,
    /// What was asked without waiting for the answer.
    under_way: JoinSet<()>,
    says: bool,
    began: Instant,
}

async fn ask(client: &Client, method: &str, params: Value) -> Result<Value, ClientError> {
    client.request(method, params).await
}

/// A refusal is one that may come: what is named was there a moment ago.
fn may_be(what: &str, result: Result<(), ClientError>) {
    if let Err(ClientError::Rpc(error)) = result {
        if error.code == -32000 {
            // Not an answer: what the crate says of a connection that has ended.
            return;
        }
        let gone = [-32001, -32008, -32602].contains(&error.code);
        // One that closes takes nothing new.
        let closes = error.message.contains("is closing") || error.message.contains("has closed");
        assert!(
            gone || (what.starts_with("create") && closes),
            "{what}: {error:?}"
        );
    }
}

async fn next(place: &Arc<Place>, args: &'static [&'static str]) -> Host {
    let place = place.clone();
    let started = spawn_blocking(move || host(&place, args));
    started.await.expect("a host")
}

impl World {
    async fn new(seed: u64) -> Self {
        let place = Arc::new(Place::new());
        let host = next(&place, &[]).await;
        let address: Address = Arc::new(Mutex::new(host.client.clone()));
        let mut witness = Peer::new(&host.client, "witness").await;
        witness.remember();
        let mut guests = Vec::new();
        for n in 0..CLIENTS {
            let mut peer = Peer::new(&host.client, &format!("guest {n}")).await;
            peer.remember();
            guests.push(Guest { peer, away: false });
        }
        let mut mirror = Mirror::new();
        mirror.add(HERE, &address).await;
        Self {
            place,
            host,
            address,
            random: Random::new(seed),
            witness,
            guests,
            mirror,
            made: 0,
            names: 0,
            under_way: JoinSet::new(),
            says: std::env::var_os("HOSTLER_STORM_SAY").is_some(),
            began: Instant::now(),
        }
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.says {
            eprintln!("{:?} {}", self.began.elapsed(), what());
        }
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("{}", self.names)
    }

    /// Everything that can be followed, as the witness sees it.
    async fn look_around(&mut self) {
        let list = self
            .witness
            .ask("listSessions", json!({"channel": ROOT}))
            .await;
        let list = list.expect("a list");
        self.witness.catch_up();
        let mut all: Vec<String> = Vec::new();
        for item in list["items"].as_array().expect("items") {
            all.push(item["resource"].as_str().expect("a URI").to_owned());
            for chat in item["chats"].as_array().into_iter().flatten() {
                all.push(chat["resource"].as_str().expect("a URI").to_owned());
            }
        }
        let terminals = self.witness.root().terminals.unwrap_or_default();
        all.extend(terminals.into_iter().map(|info| info.resource));
        // What was disposed of is not told of by an action of its own.
        let gone = self
            .witness
            .states
            .keys()
            .filter(|uri| *uri != ROOT && !all.contains(uri));
        for uri in gone.cloned().collect::<Vec<_>>() {
            let _ = self.witness.leave(&uri).await;
        }
        for uri in all {
            if !self.witness.states.contains_key(&uri) {
                may_be(&uri, self.witness.try_follow(&uri, None, None).await);
            }
        }
    }

    /// What the witness follows and is there, of a kind.
    fn there(&self, scheme: &str) -> Vec<String> {
        let all = self.witness.states.keys();
        let mut all: Vec<String> = all.filter(|uri| uri.starts_with(scheme)).cloned().collect();
        all.sort();
        all
    }

    fn pick(&mut self, scheme: &str) -> Option<String> {
        let all = self.there(scheme);
        let at = self.random.pick(&all)?;
        Some(all[at].clone())
    }

    /// A client that is connected.
    fn guest(&mut self) -> usize {
        let all: Vec<usize> = (0..CLIENTS).filter(|n| !self.guests[*n].away).collect();
        self.random.pick(&all).map_or(0, |at| all[at])
    }

    /// Asks as some client does, waits for the answer or does not.
    async fn asks(&mut self, method: &'static str, params: Value) {
        let at = self.guest();
        let client = self.guests[at].peer.client.clone();
        self.say(|| format!("{at}: {method} {params}"));
        let asking = async move {
            let result = ask(&client, method, params).await;
            may_be(method, result.map(drop));
        };
        if self.random.percent(40) {
            self.under_way.spawn(asking);
        } else {
            asking.await;
        }
    }

    async fn dispatches(&mut self, channel: &str, action: Value) {
        if self.random.percent(15) {
            self.mirror.dispatch(HERE, channel, action).await;
            return;
        }
        let at = self.guest();
        self.say(|| format!("{at}: {channel} {action}"));
        let action = serde_json::from_value(action).expect("an action");
        let client = &self.guests[at].peer.client;
        // One that is not connected says nothing.
        let _ = client.dispatch(channel.to_owned(), action).await;
    }

    fn new_env(&self) -> Value {
        json!({ "HOSTLER_MARK": self.place.mark })
    }

    async fn open(&mut self) {
        self.made += 1;
        let name = self.name();
        let provider = if self.random.percent(10) {
            "none"
        } else {
            "shell"
        };
        let params = json!({"channel": format!("ahp-session:/s{name}"), "provider": provider,
            "workingDirectories": ["file:///tmp"], "_meta": {"dev.hostler/new": {"env": self.new_env()}}});
        self.asks("createSession", params).await;
        self.look_around().await;
    }

    async fn terminal(&mut self) {
        let name = self.name();
        let program = PROGRAMS[self.random.below(PROGRAMS.len() as u64) as usize];
        let session = self.pick("ahp-session:");
        let claim = match session {
            Some(session) => {
                json!({"kind": "session", "session": session, "chat": "ahp-chat:/any"})
            }
            None => return,
        };
        let params = json!({"channel": format!("ahp-terminal:/t{name}"), "claim": claim, "cols": 60, "rows": 12,
            "_meta": {"dev.hostler/argv": ["sh", "-c", program], "dev.hostler/env": self.new_env()}});
        self.asks("createTerminal", params).await;
        self.look_around().await;
    }

    async fn at_a_terminal(&mut self) {
        let Some(uri) = self.pick("ahp-terminal:") else {
            return;
        };
        let at = self.guest();
        let who = self.guests[at].peer.name.clone();
        let client = self.guests[at].peer.client.clone();
        let (cols, rows) = (30 + self.random.below(60), 5 + self.random.below(20));
        let session = self.witness.states.get(&uri).and_then(|state| match state {
            SnapshotState::Terminal(state) => serde_json::to_value(&state.claim).ok(),
            _ => None,
        });
        let claim =
            json!({"type": "terminal/claimed", "claim": {"kind": "client", "clientId": who}});
        let back = json!({"type": "terminal/claimed", "claim": session});
        let input = json!({"type": "terminal/input", "data": format!("word{rows}\r")});
        let size = json!({"type": "terminal/resized", "cols": cols, "rows": rows});
        let clear = json!({"type": "terminal/cleared"});
        let mut actions = vec![claim, input, size];
        if self.random.percent(20) {
            actions.push(clear);
        }
        if self.random.percent(60) {
            actions.push(back);
        }
        self.say(|| format!("{at}: {uri} {actions:?}"));
        for action in actions {
            let action = serde_json::from_value(action).expect("an action");
            let _ = client.dispatch(uri.clone(), action).await;
        }
    }

    async fn in_a_chat(&mut self) {
        let Some(chat) = self.pick("ahp-chat:") else {
            return;
        };
        let text = PROMPTS[self.random.below(PROMPTS.len() as u64) as usize];
        let name = self.name();
        let state = self.witness.chat(&chat);
        let active = state.active_turn.as_ref().map(|turn| turn.id.clone());
        let queued = |id: &str| json!({"type": "chat/pendingMessageSet", "kind": "queued", "id": id, "message": message(text)});
        let waiting = state.queued_messages.iter().flatten();
        let waiting: Vec<String> = waiting.map(|one| one.id.clone()).collect();
        let waits = self.random.pick(&waiting).map(|at| waiting[at].clone());
        let action = match (self.random.below(10), active, waits) {
            (0..=2, Some(turn), _) => {
                json!({"type": "chat/turnCancelled", "turnId": turn, "duration": 0})
            }
            (3, _, Some(id)) => {
                json!({"type": "chat/pendingMessageRemoved", "kind": "queued", "id": id})
            }
            (4, _, Some(id)) => json!({"type": "chat/queuedMessagesReordered", "order": [id]}),
            (5, _, Some(id)) => queued(&id),
            (6, ..) => {
                json!({"type": "chat/draftChanged", "draft": message(&format!("draft {name}"))})
            }
            (7, ..) => json!({"type": "chat/isReadChanged", "isRead": self.random.percent(50)}),
            (8, ..) | (_, Some(_), _) => queued(&format!("q{name}")),
            _ => prompt(&format!("t{name}"), text),
        };
        self.dispatches(&chat, action).await;
    }

    async fn of_a_session(&mut self) {
        let Some(session) = self.pick("ahp-session:") else {
            return;
        };
        let name = self.name();
        if self.random.percent(50) {
            let action = json!({"type": "session/titleChanged", "title": format!("title {name}")});
            return self.dispatches(&session, action).await;
        }
        if self.witness.session(&session).default_chat.is_none() {
            return;
        }
        let params = json!({"channel": session, "chat": format!("ahp-chat:/c{name}")});
        self.asks("createChat", params).await;
        self.look_around().await;
    }

    /// A client follows something, or no longer does.
    async fn turns_to(&mut self) {
        let schemes = ["ahp-session:", "ahp-chat:", "ahp-terminal:"];
        let scheme = schemes[self.random.below(3) as usize];
        let Some(uri) = self.pick(scheme) else { return };
        if self.random.percent(15) {
            self.mirror.follow(HERE, &uri).await;
            return;
        }
        let at = self.guest();
        let latency = [None, None, Some(5), Some(60)][self.random.below(4) as usize];
        let peer = &mut self.guests[at].peer;
        if peer.states.contains_key(&uri) && self.random.percent(60) {
            let _ = peer.leave(&uri).await;
        } else {
            may_be(&uri, peer.try_follow(&uri, latency, None).await);
        }
        self.say(|| format!("{at}: turned to {uri}"));
    }

    /// A client's connection is lost.
    async fn goes(&mut self) {
        let at = self.guest();
        self.say(|| format!("{at}: goes"));
        let guest = &mut self.guests[at];
        if self.random.percent(50) {
            guest.peer.catch_up();
        }
        guest.peer.client.shutdown().await;
        guest.away = true;
    }

    async fn comes(&mut self, at: usize) {
        self.say(|| format!("{at}: comes back"));
        let host = self.host.client.clone();
        let guest = &mut self.guests[at];
        guest.peer.try_back(&host).await.expect("it is back");
        guest.away = false;
    }

    /// Another host takes this one's place.
    async fn next_host(&mut self) {
        let kills = self.random.percent(50);
        self.say(|| {
            format!(
                "the host is {}",
                if kills { "killed" } else { "taken over" }
            )
        });
        // Its clients hear of it meanwhile, and say goodbye.
        if kills {
            self.host.signal(Signal::KILL);
            self.host.ended();
            self.host = next(&self.place, &[]).await;
        } else {
            let next = next(&self.place, &["--takeover"]).await;
            let mut last = std::mem::replace(&mut self.host, next);
            spawn_blocking(move || last.ended()).await.expect("it ends");
        }
        *self.address.lock().expect("an address") = self.host.client.clone();
        for guest in &mut self.guests {
            guest.away = true;
        }
        self.witness.catch_up();
        let host = self.host.client.clone();
        self.witness.try_back(&host).await.expect("it is back");
        self.look_around().await;
        // Not all at once.
        for at in 0..CLIENTS {
            if at == 0 || self.random.percent(60) {
                self.comes(at).await;
            }
        }
    }

    async fn dispose(&mut self) {
        if let Some(uri) = self.pick("ahp-session:") {
            let params = json!({"channel": uri, "_meta": {"dev.hostler/grace": 0.2}});
            self.asks("disposeSession", params).await;
        }
    }

    async fn step(&mut self) {
        match self.random.below(100) {
            0..=7 if self.there("ahp-session:").len() < AT_ONCE => self.open().await,
            0..=7 => self.dispose().await,
            8..=11 => self.terminal().await,
            12..=23 => self.at_a_terminal().await,
            24..=30 => self.of_a_session().await,
            31..=50 => self.turns_to().await,
            51..=55 => self.goes().await,
            56..=62 => {
                for at in 0..CLIENTS {
                    if self.guests[at].away {
                        self.comes(at).await;
                    }
                }
            }
            63..=65 => self.dispose().await,
            66 => {
                if let Some(uri) = self.pick("ahp-terminal:") {
                    self.asks("disposeTerminal", json!({"channel": uri})).await;
                }
            }
            67..=69 => self.look_around().await,
            _ => self.in_a_chat().await,
        }
        while let Some(done) = self.under_way.try_join_next() {
            done.expect("no refusal that must not be");
        }
        if self.random.percent(50) {
            sleep(Duration::from_millis(self.random.below(12))).await;
        }
        self.witness.catch_up();
        for guest in self.guests.iter_mut().filter(|guest| !guest.away) {
            guest.peer.catch_up();
        }
        self.mirror.catch_up().await;
    }
}

#[test]
fn after_random_schedules_all_clients_have_what_the_host_has() {
    let clock = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time");
    let seed =
        number("HOSTLER_SEED").unwrap_or(u64::try_from(clock.as_micros()).expect("a number"));
    let total = number("HOSTLER_SESSIONS").unwrap_or(24);
    println!("HOSTLER_SEED={seed} HOSTLER_SESSIONS={total}");
    run(async {
        let mut world = World::new(seed).await;
        let (mut steps, mut hosts) = (0, 1);
        while world.made < total {
            world.step().await;
            steps += 1;
            // A few times, whatever else happens.
            if world.made * 4 / total >= hosts {
                world.next_host().await;
                hosts += 1;
            }
        }
        world.say(|| "it calms down".into());
        world.calm().await;
        world.say(|| "all is calm".into());
        world.agree().await;
        let compared = world.agreed();
        assert!(compared > 100, "{compared}");
        let (generations, began) = (world.mirror.generations, world.began);
        world.say(|| format!("{compared} states compared"));
        world.end().await;
        println!(
            "{total} sessions, {steps} steps, {hosts} hosts, {generations} connections of the runtime, {compared} states compared, in {:?}",
            began.elapsed()
        );
    });
}
