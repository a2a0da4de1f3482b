//! Twenty clients on one session, and some of them behave badly.

use std::time::{Duration, Instant};

use ahp::SubscriptionEvent;
use ahp_types::state::SnapshotState;
use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::oneshot::error::TryRecvError;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::peer::{Peer, ROOT, said};
use crate::protocol::raw;
use crate::random::{Random, number};
use crate::support::{Client, Place, long, run};

/// How many behave as they should.
const GOOD: usize = 17;
/// The lines of a turn, and what each of them says besides its number.
const LINES: usize = 120;
const WIDTH: usize = 100;

fn all_lines() -> String {
    (1..=LINES).map(|n| format!("{n:0WIDTH$}\n")).collect()
}

/// A turn to all of these; how long it took until the last one had its end.
async fn turn(peers: &mut [Peer], chat: &str, id: &str) -> Duration {
    let began = Instant::now();
    let text = format!("for i in $(seq 1 {LINES}); do printf '%0{WIDTH}d\\n' $i; sleep 0.01; done");
    peers[0].prompt(chat, id, &text).await;
    let ends = peers.iter_mut().map(|peer| async {
        let ended = |peer: &Peer| match &peer.states[chat] {
            SnapshotState::Chat(chat) => chat.turns.iter().any(|turn| turn.id == id),
            _ => false,
        };
        peer.until("the turn's end", ended).await;
    });
    join_all(ends).await;
    began.elapsed()
}

/// What came of a chat: the numbers and the actions.
fn actions(peer: &Peer, chat: &str) -> Vec<(u64, String)> {
    let own = peer.heard.iter().filter_map(|event| match event {
        SubscriptionEvent::Action(envelope) if envelope.channel == chat => {
            let action = serde_json::to_string(&envelope.action).expect("JSON");
            Some((envelope.server_seq, action))
        }
        _ => None,
    });
    own.collect()
}

/// A client that says who it is, follows these, and reads nothing more.
async fn silent(host: &Client, channels: &[String]) -> crate::support::Socket {
    let mut socket = raw(host).await;
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params":
        {"channel": ROOT, "clientId": "silent", "protocolVersions": ["1.0.0"], "initialSubscriptions": channels}});
    let sent = socket.send(Message::text(hello.to_string())).await;
    sent.expect("sent");
    socket
}

/// A client whose connection is lost every 100 ms.
fn flapping(host: &Client, mut peer: Peer) -> (JoinHandle<Peer>, tokio::sync::oneshot::Sender<()>) {
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let host = host.clone();
    let task = tokio::spawn(async move {
        let mut times = 0;
        while stopped.try_recv() == Err(TryRecvError::Empty) {
            sleep(Duration::from_millis(100)).await;
            if times % 2 == 0 {
                peer.catch_up();
            }
            peer.try_back(&host).await.expect("it is back");
            times += 1;
        }
        assert!(times > 0, "it was never away");
        peer
    });
    (task, stop)
}

fn garbage(random: &mut Random, chat: &str) -> Message {
    let bytes = |random: &mut Random, most: u64| -> Vec<u8> {
        (0..random.below(most))
            .map(|_| random.next() as u8)
            .collect()
    };
    let good = json!({"jsonrpc": "2.0", "id": random.below(9), "method": "subscribe", "params": {"channel": chat}}).to_string();
    let wrong = [
        json!(null),
        json!(7),
        json!([[]]),
        json!({"a": 1}),
        json!("x"),
        json!(-1e300),
    ];
    let value = wrong[random.below(wrong.len() as u64) as usize].clone();
    let methods = [
        "subscribe",
        "unsubscribe",
        "dispatchAction",
        "initialize",
        "reconnect",
        "createSession",
        "fetchTurns",
        "resourceRead",
        "createTerminal",
        "listSessions",
    ];
    let method = methods[random.below(methods.len() as u64) as usize];
    let keys = [
        "channel",
        "clientSeq",
        "action",
        "protocolVersions",
        "lastSeenServerSeq",
        "uri",
    ];
    let key = keys[random.below(keys.len() as u64) as usize];
    match random.below(9) {
        0 => Message::text(String::from_utf8_lossy(&bytes(random, 300)).into_owned()),
        1 => Message::binary(bytes(random, 300)),
        2 => Message::text(good[..random.below(good.len() as u64) as usize].to_owned()),
        3 => Message::text(json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {key: value}}).to_string()),
        4 => Message::text(json!({"jsonrpc": "2.0", "method": method, "params": value}).to_string()),
        5 => Message::text(json!({"jsonrpc": value, "id": value, "method": value, "params": value}).to_string()),
        6 => Message::text("[".repeat(1 + random.below(5000) as usize)),
        7 => Message::text(json!({"jsonrpc": "2.0", "method": "dispatchAction", "params": {"channel": chat, "clientSeq": value,
            "action": {"type": "chat/delta", "turnId": value, "partId": "p", "content": "forged"}}}).to_string()),
        _ => Message::text(format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{}\"}}", "m".repeat(200_000))),
    }
}

/// A client that sends what makes no sense, and what is too much, again and again.
fn nonsense(host: &Client, chat: &str, mut random: Random) -> JoinHandle<u64> {
    let (host, chat) = (host.clone(), chat.to_owned());
    tokio::spawn(async move {
        let mut sent = 0;
        for connection in 0_u64.. {
            let mut socket = raw(&host).await;
            if connection % 2 == 0 {
                let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params":
                    {"channel": ROOT, "clientId": "nonsense", "protocolVersions": ["1.0.0"], "initialSubscriptions": [chat]}});
                let _ = socket.send(Message::text(hello.to_string())).await;
            }
            for n in 0..100 {
                let message = match n {
                    // More than a message may have.
                    99 => Message::binary(vec![b'x'; 17 << 20]),
                    _ => garbage(&mut random, &chat),
                };
                // The host may have had enough of it.
                if !timeout(Duration::from_secs(2), socket.send(message))
                    .await
                    .is_ok_and(|sent| sent.is_ok())
                {
                    break;
                }
                sent += 1;
                // It reads now and then.
                if n % 3 == 0 {
                    let _ = timeout(Duration::from_millis(1), socket.next()).await;
                }
                sleep(Duration::from_millis(2)).await;
            }
        }
        sent
    })
}

#[test]
fn of_twenty_clients_three_that_misbehave_harm_nobody() {
    let seed = number("HOSTLER_SEED").unwrap_or_else(|| std::process::id().into());
    println!("HOSTLER_SEED={seed}");
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut peers = vec![Peer::new(&host.client, "good 0").await];
        let (session, chat) = peers[0].open("crowd").await;
        for n in 1..GOOD {
            let mut peer = Peer::new(&host.client, &format!("good {n}")).await;
            peer.follow(&session).await;
            peer.follow(&chat).await;
            peers.push(peer);
        }
        peers[0].turn(&chat, "warm", "echo warm").await;
        let usual = turn(&mut peers, &chat, "t1").await;

        let followed = [session.clone(), chat.clone()];
        let mut silent = silent(&host.client, &followed).await;
        let mut flapper = Peer::new(&host.client, "flapping").await;
        flapper.follow(&chat).await;
        let (flapper, stop) = flapping(&host.client, flapper);
        let nonsense = nonsense(&host.client, &chat, Random::new(seed));
        let crowded = turn(&mut peers, &chat, "t2").await;
        assert!(!nonsense.is_finished(), "it goes on");
        nonsense.abort();
        drop(stop);
        let mut flapper = flapper.await.expect("it flaps");

        let expected = actions(&peers[0], &chat);
        for peer in &peers {
            assert_eq!(said(&peer.chat(&chat), "t2"), all_lines(), "{}", peer.name);
            assert_eq!(actions(peer, &chat), expected, "{}", peer.name);
        }
        flapper.settle().await;
        assert_eq!(flapper.state(&chat), peers[0].state(&chat));
        println!("a turn to {GOOD} clients took {usual:?}, and {crowded:?} with the three others");
        // How fast it is belongs to the benches; this is for what hangs.
        assert!(
            crowded < usual * 5 + Duration::from_secs(2),
            "{usual:?} {crowded:?}"
        );
        // The silent one has not been let down: it comes back, if it was told to.
        let first = timeout(long(), silent.next()).await.expect("in time");
        assert!(first.is_some_and(|message| message.is_ok()));
        let gone = peers[3]
            .ask("disposeSession", json!({"channel": session}))
            .await;
        gone.expect("disposed");
        assert_eq!(host.client.get("/v1/sessions").await.json(), json!([]));
    });
}

#[test]
fn who_never_reads_its_answers_is_heard_no_further_and_loses_none() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut socket = raw(&host.client).await;
        let mut sent = 0;
        // Each is answered, and nothing is read.
        loop {
            let sending = timeout(Duration::from_secs(1), socket.send(Message::text("{")));
            match sending.await {
                Ok(done) => done.expect("sent"),
                // It is in the buffer of this side.
                Err(_) => break,
            }
            sent += 1;
            assert!(sent < 300_000, "all of that waits in the host's memory");
        }
        let mut other = Peer::new(&host.client, "other").await;
        let (session, chat) = other.open("o").await;
        assert_eq!(other.turn(&chat, "t1", "echo fine").await, "fine\n");
        let mut answered = 0;
        while answered < sent {
            let answer = timeout(long(), socket.next()).await.expect("in time");
            let answer = answer.expect("more").expect("a message");
            if let Message::Text(text) = answer {
                let answer: Value = serde_json::from_str(&text).expect("JSON");
                assert_eq!(answer["error"]["code"], -32700);
                answered += 1;
            }
        }
        let gone = other
            .ask("disposeSession", json!({"channel": session}))
            .await;
        gone.expect("disposed");
    });
}

#[test]
fn what_takes_long_holds_nothing_else_up() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut peer = Peer::new(&host.client, "a").await;
        let (other, stubborn) = peer.open("stubborn").await;
        let text = format!(
            "MARK={} setsid sh -c 'trap \"\" TERM; echo ready; while :; do sleep 1; done' & wait",
            place.mark
        );
        peer.prompt(&stubborn, "t1", &text).await;
        let ready = |peer: &Peer| {
            let turn = peer.chat(&stubborn).active_turn;
            crate::peer::saying(turn.as_ref()).contains("ready")
        };
        peer.until("it does not hear", ready).await;
        let (session, chat) = peer.open("quick").await;
        let client = peer.client.clone();
        let params = json!({"channel": other, "_meta": {"dev.hostler/grace": 3}});
        let disposing = tokio::spawn(async move {
            let began = Instant::now();
            let result: Result<Value, _> = client.request("disposeSession", params).await;
            result.expect("disposed");
            began.elapsed()
        });
        sleep(Duration::from_millis(100)).await;
        // On the same connection.
        for n in 0..5 {
            assert_eq!(
                peer.turn(&chat, &format!("t{n}"), "echo fine").await,
                "fine\n"
            );
        }
        assert!(!disposing.is_finished(), "that took less than 3 s");
        let took = disposing.await.expect("disposed");
        assert!(took >= Duration::from_secs(3), "{took:?}");
        assert!(place.living().is_empty(), "{:?}", place.living());
        peer.ask("disposeSession", json!({"channel": session}))
            .await
            .expect("disposed");
    });
}
