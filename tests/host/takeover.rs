//! One host takes over from another while its sessions work.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::json;

use crate::support::{
    Came, Client, Host, Place, drain, give, long, read_until, run, say, wait_until,
};

/// How many, where the environment says nothing else.
fn number(variable: &str, default: u32) -> u32 {
    let set = std::env::var(variable).ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Follows a process over as many hosts as it takes, until `lines` lines are there; counts what it got, and asks for the rest.
async fn follow(client: Client, id: String, lines: usize) -> (Vec<u8>, usize) {
    let (mut got, mut hosts) = (Vec::new(), 0);
    while got.iter().filter(|byte| **byte == b'\n').count() < lines {
        let path = format!("/v1/processes/{id}/attach?from={}", got.len());
        // The socket is there at every moment; a connection may wait for the next host.
        let mut socket = match client.try_socket(&path).await {
            Ok(socket) => socket,
            // What was under way at that moment is to be asked again.
            Err(error) if error.contains("503") => continue,
            Err(error) => panic!("{error}"),
        };
        hosts += 1;
        let mut came = Came::default();
        while got.len() + came.stdout.len() < lines * 7 {
            if !came.take(socket.next().await) {
                break;
            }
        }
        if came.stdout.len() + got.len() < lines * 7 {
            let closing = came.said("closing").expect("a word about the next host");
            assert_eq!(closing["reason"], "takeover");
            assert_eq!(came.code, Some(1012));
        }
        got.extend(came.stdout);
    }
    (got, hosts)
}

#[test]
fn every_line_comes_once_and_in_order_over_hosts_that_take_over() {
    let place = Place::new();
    let mut host = place.host();
    run(async {
        let client = host.client.clone();
        // Lines of seven bytes each.
        let script = "i=100000; while [ $i -lt 100400 ]; do echo $i; i=$((i+1)); sleep 0.01; done; exec sleep 1000";
        let mut followers = Vec::new();
        let mut sessions = Vec::new();
        for turn in 0..number("HOSTLER_TEST_SESSIONS", 3) {
            let policy = json!({ "on_host_exit": if turn % 2 == 0 { "kill" } else { "keep" }, "keep_for": 300 });
            let session = client.open(policy).await;
            let piped = client.start(&session, script).await;
            let argv = ["sh".into(), "-c".into(), format!("stty -opost; {script}")];
            let body = json!({ "argv": argv, "tty": { "rows": 24, "cols": 80 } });
            let path = format!("/v1/sessions/{session}/processes");
            let terminal = client.post(&path, body).await.expect(201);
            let terminal = terminal["id"].as_str().expect("an id").to_owned();
            for id in [piped, terminal] {
                followers.push(tokio::spawn(follow(client.clone(), id, 400)));
            }
            sessions.push(session);
        }
        let turns = number("HOSTLER_TEST_TAKEOVERS", 3);
        for turn in 0..turns {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let place = &place;
            let command = place.command(&["--takeover"]);
            let mark = place.mark.clone();
            let next = tokio::task::spawn_blocking(move || Host::spawn(command, &mark));
            let began = Instant::now();
            let next = tokio::time::timeout(long(), next)
                .await
                .expect("in time")
                .expect("a host");
            println!("takeover {turn} in {:?}", began.elapsed());
            assert_eq!(
                next.client.tcp, client.tcp,
                "the port is handed over in turn {turn}"
            );
            let mut before = std::mem::replace(&mut host, next);
            let ended = tokio::task::spawn_blocking(move || (before.ended(), before.said.all()));
            let (status, said) = ended.await.expect("the one before");
            assert_eq!(status.code(), Some(0), "{said}");
            assert!(said.contains("handed over"), "{said}");
        }
        let expected: String = (100_000..100_400)
            .map(|number| format!("{number}\n"))
            .collect();
        for follower in followers {
            let (got, hosts) = tokio::time::timeout(long(), follower)
                .await
                .expect("in time")
                .expect("lines");
            assert!(
                got == expected.as_bytes(),
                "{}",
                String::from_utf8_lossy(&got)
            );
            assert!(hosts > 1, "{hosts} hosts");
        }
        for session in sessions {
            let report = client
                .delete(&format!("/v1/sessions/{session}"))
                .await
                .expect(200);
            assert_eq!(report["remaining"], 0);
        }
    });
    assert_eq!(host.stop().0.code(), Some(0));
    assert_eq!(place.living(), []);
}

#[test]
fn requests_that_come_during_a_takeover_are_answered() {
    let place = Place::new();
    let host = place.host();
    run(async {
        let client = host.client.clone();
        let session = client.open(json!({})).await;
        let asking = tokio::spawn(async move {
            let mut answered = 0;
            loop {
                let answer = client.get(&format!("/v1/sessions/{session}")).await;
                if answer.status == 200 {
                    answered += 1;
                    if answer.json()["adopted"] == true {
                        return answered;
                    }
                } else {
                    // What was under way at that moment.
                    assert_eq!(answer.error(503).0, "unavailable");
                }
            }
        });
        let command = place.command(&["--takeover"]);
        let mark = place.mark.clone();
        let next = tokio::task::spawn_blocking(move || Host::spawn(command, &mark));
        let _next = next.await.expect("a host");
        let answered = tokio::time::timeout(long(), asking)
            .await
            .expect("in time")
            .expect("answers");
        println!("{answered} requests answered");
    });
}

#[test]
fn without_a_host_a_takeover_is_a_start() {
    let place = Place::new();
    let host = place.host_with(&["--takeover"]);
    run(async { drop(host.client.get("/healthz").await.expect(200)) });
}

#[test]
fn a_host_whose_successor_dies_goes_on() {
    use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
    let place = Place::new();
    let host = place.host();
    let mut ids = None;
    run(async {
        let session = host.client.open(json!({})).await;
        let id = host
            .client
            .start(&session, "while :; do echo x; sleep 0.05; done")
            .await;
        ids = Some((session, id));
    });
    let (session, id) = ids.expect("ids");
    let talk = |words: &[&str]| {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let socket =
            rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None).expect("a socket");
        let address =
            SocketAddrUnix::new(place.state_dir().join("takeover.sock")).expect("an address");
        rustix::net::connect(&socket, &address).expect("connected");
        let mut answers = Vec::new();
        for word in words {
            rustix::net::send(&socket, word.as_bytes(), SendFlags::empty()).expect("sent");
            let mut bytes = vec![0; 65536];
            let (count, _) =
                rustix::net::recv(&socket, &mut bytes, rustix::net::RecvFlags::empty())
                    .expect("an answer");
            answers.push(String::from_utf8_lossy(&bytes[..count]).into_owned());
        }
        answers
    };
    let hello = r#"{"say":"hello","version":1,"pid":1,"release":"x"}"#;
    // Another version, and one that dies before the point of no return: nothing happens.
    assert!(
        talk(&[r#"{"say":"hello","version":99,"pid":1,"release":"x"}"#])[0].contains("refused")
    );
    assert!(talk(&[hello])[0].contains("ready"));
    run(async { drop(host.client.get("/healthz").await.expect(200)) });
    // And one that dies behind it: the host starts again in its own place.
    assert!(talk(&[hello, r#"{"say":"go"}"#])[1].contains("done"));
    host.said.wait_for(&["starts again"]);
    wait_until("it serves again", || {
        host.said.all().matches("listening on").count() == 2
    });
    run(async {
        let info = host
            .client
            .get(&format!("/v1/sessions/{session}"))
            .await
            .expect(200);
        assert_eq!(
            (&info["adopted"], &info["processes"]),
            (&json!(true), &json!(1))
        );
        let before = host
            .client
            .get(&format!("/v1/processes/{id}"))
            .await
            .expect(200);
        let bytes = |value: &serde_json::Value| value["output_bytes"].as_u64().expect("a number");
        loop {
            let now = host
                .client
                .get(&format!("/v1/processes/{id}"))
                .await
                .expect(200);
            if bytes(&now) > bytes(&before) {
                break;
            }
        }
        let health = host.client.get("/healthz").await.expect(200);
        assert_eq!(health["pid"], host.pid());
    });
    assert_eq!(host.stop().0.code(), Some(0));
    assert_eq!(place.living(), []);
}

#[test]
fn a_command_in_the_foreground_goes_on_with_its_client() {
    let place = Place::new();
    let host = place.host();
    run(async {
        let client = host.client.clone();
        let session = client.open(json!({ "grace": 0.3 })).await;
        let script = "trap 'echo end >&2; exit 9' TERM; cat; echo err >&2; exit 4";
        let request = json!({ "argv": ["sh", "-c", script], "stdin": true });
        let mut socket = client.exec(&session, request).await;
        let mut came = Came::default();
        read_until(&mut socket, &mut came, |came| came.said("at").is_some()).await;
        let id = came.said("started").expect("it")["id"]
            .as_str()
            .expect("an id")
            .to_owned();
        give(&mut socket, b"first\n").await;
        read_until(&mut socket, &mut came, |came| came.stdout == b"first\n").await;

        let (command, mark) = (place.command(&["--takeover"]), place.mark.clone());
        let next = tokio::task::spawn_blocking(move || Host::spawn(command, &mark));
        let rest = drain(&mut socket).await;
        let closing = rest.said("closing").expect("a word about the next host");
        assert_eq!(
            (&closing["reason"], &closing["input"]),
            (&json!("takeover"), &json!(6))
        );
        assert_eq!(rest.stdout, b"");
        let next = next.await.expect("a host");
        let path = format!("/v1/processes/{id}/attach?from=6&foreground=true");
        let mut socket = client.socket(&path).await;
        give(&mut socket, b"second\n").await;
        say(&mut socket, json!({ "eof": true })).await;
        let came = drain(&mut socket).await;
        assert_eq!(
            (came.stdout.as_slice(), came.stderr.as_slice()),
            (&b"second\n"[..], &b"err\n"[..])
        );
        assert_eq!(came.said("exit").expect("it")["code"], 4);

        // And the next one's end still comes with its client's.
        let request = json!({ "argv": ["sleep", "1000"] });
        let mut socket = client.exec(&session, request).await;
        let mut came = Came::default();
        read_until(&mut socket, &mut came, |came| came.said("at").is_some()).await;
        drop(socket);
        place.all_gone();
        drop(next);
    });
}
