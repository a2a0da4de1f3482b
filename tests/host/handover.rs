//! What is under way at the moment at which another host takes over.

use std::time::Duration;

use futures_util::StreamExt;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::support::{Answer, Came, Client, Host, Place, drain, long, read_until, run, say};

/// Another host, which takes over meanwhile.
fn next(place: &Place, args: &[&str]) -> tokio::task::JoinHandle<Host> {
    let command = place.command(&[&["--takeover"], args].concat());
    let mark = place.mark.clone();
    tokio::task::spawn_blocking(move || Host::spawn(command, &mark))
}

/// A session's keeper, which the session holds alive.
async fn keeper(client: &Client, session: &str) -> Pid {
    let info = client.get(&format!("/v1/sessions/{session}")).await;
    let pid = info.expect(200)["keeper"].as_i64().expect("a keeper");
    Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid")
}

/// Waits until so many processes are about to be started.
async fn intended(client: &Client, count: usize) {
    let all = async {
        loop {
            let events = client.get("/v1/events").await.expect(200);
            let events = events.as_array().expect("events");
            let kind = |event: &&serde_json::Value| event["kind"] == "resource.intended";
            if events.iter().filter(kind).count() >= count {
                return;
            }
        }
    };
    tokio::time::timeout(long(), all).await.expect("in time");
}

/// Waits until the host stands still.
async fn stands_still(host: &Host) {
    host.said.wait_for(&["another host takes over"]);
    let client = &host.client;
    let brief = Duration::from_millis(200);
    while tokio::time::timeout(brief, client.get("/healthz"))
        .await
        .is_ok()
    {}
}

#[test]
fn what_is_being_started_is_told_to_whoever_asked() {
    let place = Place::new();
    let host = place.host();
    run(async {
        let client = host.client.clone();
        let session = client.open(json!({ "grace": 0.3 })).await;
        let keeper = keeper(&client, &session).await;
        // Nothing is started while the keeper stands still.
        kill_process(keeper, Signal::STOP).expect("stopped");
        let post = |path: &str, body: serde_json::Value| {
            let (client, path) = (client.clone(), format!("/v1/sessions/{session}/{path}"));
            tokio::spawn(async move { client.post(&path, body).await })
        };
        let argv = json!(["sh", "-c", "read line; echo $line; exec sleep 1000"]);
        let background = post("processes", json!({ "argv": argv }));
        let kept = post("processes", json!({ "argv": argv, "keep": "beside" }));
        let script = "echo first; sleep 0.3; cat; echo last >&2; exit 3";
        let ran = post(
            "run",
            json!({ "argv": ["sh", "-c", script], "stdin": "given" }),
        );
        let mut socket = client
            .exec(&session, json!({ "argv": ["cat"], "stdin": true }))
            .await;
        intended(&client, 4).await;
        let next = next(&place, &[]);
        stands_still(&host).await;
        kill_process(keeper, Signal::CONT).expect("goes on");

        let came = drain(&mut socket).await;
        let id = came.said("started").expect("it")["id"].clone();
        assert_eq!(
            came.said("closing").expect("a word")["reason"],
            "takeover",
            "{came:?}"
        );
        let in_time = async |asked: tokio::task::JoinHandle<Answer>| {
            let answer = tokio::time::timeout(long(), asked).await.expect("in time");
            answer.expect("an answer")
        };
        let background = in_time(background).await.expect(201);
        let kept = in_time(kept).await.expect(201);
        let ran = in_time(ran).await;
        assert_eq!(ran.status, 303, "{:?}", String::from_utf8_lossy(&ran.bytes));
        let next = next.await.expect("a host");
        for (process, owner) in [(&background, Some(&session)), (&kept, None)] {
            let path = format!("/v1/processes/{}", process["id"].as_str().expect("an id"));
            let found = client.get(&path).await.expect(200);
            assert_eq!(found["state"], "running", "{found}");
            match owner {
                Some(owner) => assert_eq!(found["session"], owner.as_str()),
                None => {
                    let beside = client.get("/v1/sessions/beside").await.expect(200);
                    assert_eq!(found["session"], beside["id"]);
                }
            }
        }
        let result = client.get(ran.header("location")).await.expect(200);
        assert_eq!(
            (
                &result["stdout"],
                &result["stderr"],
                &result["exit"]["code"]
            ),
            (&json!("first\ngiven"), &json!("last\n"), &json!(3))
        );
        let id = id.as_str().expect("an id");
        let path = format!("/v1/processes/{id}/attach?from=0&foreground=true");
        let mut socket = client.socket(&path).await;
        say(&mut socket, json!({ "eof": true })).await;
        let came = drain(&mut socket).await;
        assert_eq!(came.said("exit").expect("it")["code"], 0);
        for session in ["beside", &session] {
            let path = format!("/v1/sessions/{session}");
            assert_eq!(client.delete(&path).await.expect(200)["remaining"], 0);
        }
        drop(next);
    });
    assert_eq!(place.living(), []);
}

#[test]
fn what_was_not_begun_is_begun_by_the_next_host() {
    let place = Place::new();
    let host = place.host();
    run(async {
        let client = host.client.clone();
        let session = client.open(json!({ "grace": 0.3 })).await;
        // Connected, and with nothing said yet.
        let mut socket = client.socket(&format!("/v1/sessions/{session}/exec")).await;
        let next = next(&place, &[]).await.expect("a host");
        say(&mut socket, json!({ "argv": ["true"] })).await;
        let came = drain(&mut socket).await;
        assert_eq!(came.said("closing").expect("a word")["reason"], "takeover");
        assert!(came.said("started").is_none(), "{came:?}");
        let mut socket = client.exec(&session, json!({ "argv": ["true"] })).await;
        let came = drain(&mut socket).await;
        assert_eq!(came.said("exit").expect("it")["code"], 0);
        drop(next);
    });
}

#[test]
fn a_client_that_does_not_read_loses_nothing() {
    const LINES: usize = 400_000;
    let place = Place::new();
    let mut host = place.host();
    run(async {
        let client = host.client.clone();
        let session = client.open(json!({})).await;
        let script = format!(
            "trap 'exit 7' USR1; read line; echo $line >&2; seq {LINES}; read line; exit $line"
        );
        let request = json!({ "argv": ["sh", "-c", script], "stdin": true });
        let mut socket = client.exec(&session, request).await;
        let mut came = Came::default();
        read_until(&mut socket, &mut came, |came| came.said("at").is_some()).await;
        let id = came.said("started").expect("it")["id"].clone();
        let id = id.as_str().expect("an id").to_owned();
        crate::support::give(&mut socket, b"go\n").await;
        read_until(&mut socket, &mut came, |came| !came.stderr.is_empty()).await;
        // From here on nothing is read, for longer than any host takes to hand over.
        let next = next(&place, &[]).await.expect("a host");
        host.said.wait_for(&["staying for clients"]);
        assert_eq!(client.get("/healthz").await.expect(200)["pid"], next.pid());
        read_until(&mut socket, &mut came, |came| {
            came.said("closing").is_some()
        })
        .await;
        let closing = came.said("closing").expect("a word");
        assert_eq!(
            (&closing["reason"], &closing["input"]),
            (&json!("takeover"), &json!(3))
        );
        drain(&mut socket).await;
        drop(socket);
        let path = format!(
            "/v1/processes/{id}/attach?from={}&stderr_from={}&foreground=true",
            came.stdout.len(),
            came.stderr.len()
        );
        let mut socket = client.socket(&path).await;
        crate::support::give(&mut socket, b"5\n").await;
        while came.take(socket.next().await) {}
        let expected: String = (1..=LINES).map(|line| format!("{line}\n")).collect();
        let same = came.stdout.iter().zip(expected.as_bytes());
        let same = same.take_while(|(one, other)| one == other).count();
        let lengths = (came.stdout.len(), expected.len());
        assert!(
            came.stdout == expected.as_bytes(),
            "the same up to {same}: {lengths:?}; {:?}",
            came.said
        );
        assert_eq!(came.said("exit").expect("it")["code"], 5);
        assert_eq!(host.ended().code(), Some(0));
        drop(next);
    });
}

#[test]
fn a_host_that_takes_over_listens_where_it_was_told_as_well() {
    let place = Place::new();
    let host = place.host();
    let own = [("host", "localhost")];
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address");
    // An address that cannot be had: the host that runs goes on.
    let refused = place
        .command(&["--takeover", "--listen", &port.to_string()])
        .output()
        .expect("a host");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("cannot listen on {port}")), "{said}");
    assert!(!host.said.all().contains("takes over"));
    drop(taken);
    run(async {
        let before = host.client.clone();
        let next = next(&place, &["--listen", &port.to_string()]);
        let next = next.await.expect("a host");
        for address in [before.tcp.clone(), port.to_string()] {
            let client = Client {
                tcp: address,
                ..before.clone()
            };
            let health = client.over_tcp("/healthz", &own).await.expect(200);
            assert_eq!(health["pid"], next.pid());
        }
        let said = next.said.all();
        assert!(
            said.contains(&port.to_string()) && said.contains(&before.tcp),
            "{said}"
        );
    });
}

#[test]
fn a_host_that_is_still_starting_is_waited_for() {
    let place = Place::new();
    let host = place.host();
    let session = {
        let mut id = String::new();
        run(async {
            id = host
                .client
                .open(json!({ "on_host_exit": "keep", "keep_for": 60 }))
                .await
        });
        id
    };
    host.kill();
    // Two at once: one starts, and the other takes over from it as soon as it can.
    let both: Vec<_> = (0..2)
        .map(|_| {
            let (command, mark) = (place.command(&["--takeover"]), place.mark.clone());
            std::thread::spawn(move || Host::spawn(command, &mark))
        })
        .collect();
    let mut both: Vec<Host> = both
        .into_iter()
        .map(|host| host.join().expect("a host"))
        .collect();
    let first = both
        .iter()
        .position(|host| host.said.all().contains("nothing to take over"));
    let mut first = both.swap_remove(first.expect("one that starts"));
    assert_eq!(first.ended().code(), Some(0));
    run(async {
        let client = &both[0].client;
        let health = client.get("/healthz").await.expect(200);
        assert_eq!(health["pid"], both[0].pid());
        let path = format!("/v1/sessions/{session}");
        assert_eq!(client.delete(&path).await.expect(200)["remaining"], 0);
    });
}
