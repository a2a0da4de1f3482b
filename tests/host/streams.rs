//! Processes with their streams on WebSockets.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Came, Place, drain, give, long, read_until, run, say, slack, wait_until};

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(bytes)
    .collect()
}

#[test]
fn bytes_go_through_exactly_and_the_exit_comes_last() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let session = host.client.open(json!({})).await;
        let script = "cat; echo err >&2; exit 5";
        let request = json!({ "argv": ["sh", "-c", script], "stdin": true });
        let socket = host.client.exec(&session, request).await;
        let (mut sink, mut stream) = socket.split();
        let sent = noise(1 << 20);
        let giving = async {
            for piece in sent.chunks(50_000) {
                let frame = [&[0], piece].concat();
                sink.send(Message::binary(frame)).await.expect("sent");
            }
            let eof = json!({ "eof": true }).to_string();
            sink.send(Message::text(eof)).await.expect("sent");
        };
        let mut came = Came::default();
        let taking = async { while came.take(stream.next().await) {} };
        let both = async { tokio::join!(giving, taking) };
        tokio::time::timeout(long(), both).await.expect("in time");
        assert!(came.stdout == sent, "{} bytes came", came.stdout.len());
        assert_eq!(came.stderr, b"err\n");
        assert_eq!(came.said("started").expect("it")["session"], session);
        assert_eq!(came.said("at").expect("it")["stdout"], 0);
        let last = came.said.last().expect("the exit");
        assert_eq!(
            (&last["exit"]["code"], &last["exit"]["status"]),
            (&json!(5), &json!(5))
        );
        assert_eq!(came.code, Some(1000));
        let taken = came
            .said
            .iter()
            .filter_map(|said| said["input"].as_u64())
            .max();
        assert!(taken >= Some(256 << 10), "{taken:?}");
    });
}

#[test]
fn the_end_comes_with_the_exit_and_not_with_the_pipe() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let session = host.client.open(json!({ "grace": 0.2 })).await;
        let request = json!({ "argv": ["sh", "-c", "sleep 1000 & echo done"] });
        let mut socket = host.client.exec(&session, request).await;
        let came = drain(&mut socket).await;
        assert_eq!(came.stdout, b"done\n");
        assert_eq!(came.said("exit").expect("it")["code"], 0);
        assert_eq!(place.living().len(), 1);
    });
}

#[test]
fn what_cannot_be_run_is_said() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let client = &host.client;
        let session = client.open(json!({})).await;
        for (request, code) in [
            (json!({ "argv": ["/no/such"] }), "no_program"),
            (json!({ "argv": ["/tmp"] }), "not_executable"),
            (json!({ "argv": [] }), "bad_request"),
            (json!({ "argw": ["true"] }), "bad_request"),
        ] {
            let mut socket = client.exec(&session, request).await;
            let came = drain(&mut socket).await;
            assert_eq!(came.said("error").expect("an error")["code"], code);
        }
        let error = client
            .try_socket("/v1/sessions/nobody/exec")
            .await
            .expect_err("no session");
        assert!(error.contains("404"), "{error}");
        let error = client
            .try_socket("/v1/processes/p-x/attach")
            .await
            .expect_err("no process");
        assert!(error.contains("404"), "{error}");
    });
}

#[test]
fn a_signal_reaches_the_process() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let session = host.client.open(json!({})).await;
        let request = json!({ "argv": ["sh", "-c", "echo up; exec sleep 1000"] });
        let mut socket = host.client.exec(&session, request).await;
        let mut came = Came::default();
        read_until(&mut socket, &mut came, |came| came.stdout == b"up\n").await;
        say(&mut socket, json!({ "signal": "INT" })).await;
        let came = drain(&mut socket).await;
        let exit = came.said("exit").expect("it");
        assert_eq!((&exit["signal"], &exit["status"]), (&json!(2), &json!(130)));
    });
}

#[test]
fn a_client_that_vanishes_takes_its_foreground_process_with_it() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let client = &host.client;
        let session = client.open(json!({ "grace": 0.3 })).await;
        for polite in [true, false] {
            let request = json!({ "argv": ["sh", "-c", "trap '' HUP; echo up; while :; do sleep 1000; done"] });
            let mut socket = client.exec(&session, request).await;
            let mut came = Came::default();
            read_until(&mut socket, &mut came, |came| came.stdout == b"up\n").await;
            assert!(!place.living().is_empty());
            if polite {
                socket.close(None).await.expect("closed");
            }
            drop(socket);
            println!("gone after {:?}", place.all_gone());
        }
        // And so does one that posts and goes away.
        let path = format!("/v1/sessions/{session}/run");
        let body = json!({ "argv": ["sleep", "1000"] });
        let posting = tokio::time::timeout(Duration::from_millis(500), client.post(&path, body));
        assert!(posting.await.is_err());
        let began = Instant::now();
        while !place.living().is_empty() {
            assert!(began.elapsed() < long(), "it still runs");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("gone after {:?}", began.elapsed());
        // The session is as it was.
        let info = client
            .get(&format!("/v1/sessions/{session}"))
            .await
            .expect(200);
        assert_eq!(
            (&info["state"], &info["processes"]),
            (&json!("active"), &json!(0))
        );
    });
}

#[test]
fn a_client_that_does_not_read_slows_its_own_process_only() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let client = &host.client;
        let session = client.open(json!({})).await;
        let resident = || {
            let text =
                std::fs::read_to_string(format!("/proc/{}/statm", host.pid())).expect("the host");
            let pages: u64 = text
                .split(' ')
                .nth(1)
                .and_then(|pages| pages.parse().ok())
                .expect("pages");
            pages * 4096
        };
        let request = json!({ "argv": ["sh", "-c", "seq 1 5000000"] });
        let mut slow = client.exec(&session, request).await;
        let mut came = Came::default();
        read_until(&mut slow, &mut came, |came| !came.stdout.is_empty()).await;
        let id = came.said("started").expect("it")["id"]
            .as_str()
            .expect("an id")
            .to_owned();
        let before = resident();
        // It writes until what is between it and its reader is full, and then no further.
        let written = async || {
            let process = client.get(&format!("/v1/processes/{id}")).await.expect(200);
            process["output_bytes"].as_u64().expect("a number")
        };
        let mut last = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = written().await;
            if now == last {
                break;
            }
            last = now;
        }
        assert!(last < 8 << 20, "{last} bytes were written");
        // Others are not slowed meanwhile.
        let began = Instant::now();
        for _ in 0..20 {
            let path = format!("/v1/sessions/{session}/run");
            let ran = client.post(&path, json!({ "argv": ["true"] })).await;
            ran.expect(200);
        }
        let quick = began.elapsed() / 20;
        println!(
            "{last} bytes ahead; `true` meanwhile in {quick:?}; host grew by {}",
            resident() - before.min(resident())
        );
        assert!(quick < Duration::from_millis(100) * slack());
        assert!(resident() < before + (16 << 20));
        // Then it reads, and all comes.
        let rest = drain(&mut slow).await;
        came.stdout.extend_from_slice(&rest.stdout);
        let expected: String = (1..=5_000_000)
            .map(|number| format!("{number}\n"))
            .collect();
        assert!(
            came.stdout == expected.as_bytes(),
            "{} bytes came",
            came.stdout.len()
        );
        assert!(rest.said("gap").is_none());
        assert_eq!(rest.said("exit").expect("it")["code"], 0);
    });
}

#[test]
fn a_terminal_has_several_viewers_and_lives_on_without() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let client = &host.client;
        let session = client.open(json!({})).await;
        let script = "stty -echo; echo ready; while read line; do [ $line = size ] && stty size || echo got $line; done";
        let request = json!({ "argv": ["sh", "-c", script], "tty": { "rows": 24, "cols": 80 } });
        let mut first = client.exec(&session, request).await;
        let mut came = Came::default();
        read_until(&mut first, &mut came, |came| {
            came.stdout.ends_with(b"ready\r\n")
        })
        .await;
        let id = came.said("started").expect("it")["id"]
            .as_str()
            .expect("an id")
            .to_owned();
        let info = client
            .get(&format!("/v1/sessions/{session}"))
            .await
            .expect(200);
        assert_eq!(info["clients"], 1);
        let attach = format!("/v1/processes/{id}/attach");
        let mut second = client.socket(&attach).await;
        let mut seen = Came::default();
        read_until(&mut second, &mut seen, |seen| {
            seen.stdout.ends_with(b"ready\r\n")
        })
        .await;
        give(&mut second, b"hello\n").await;
        for (socket, came) in [(&mut first, &mut came), (&mut second, &mut seen)] {
            read_until(socket, came, |came| came.stdout.ends_with(b"got hello\r\n")).await;
        }
        say(&mut first, json!({ "resize": { "rows": 33, "cols": 99 } })).await;
        give(&mut first, b"size\n").await;
        read_until(&mut second, &mut seen, |seen| {
            seen.stdout.ends_with(b"33 99\r\n")
        })
        .await;
        drop((first, second));
        let clients = async || {
            let info = client
                .get(&format!("/v1/sessions/{session}"))
                .await
                .expect(200);
            info["clients"].as_u64().expect("a number")
        };
        while clients().await > 0 {}
        // What it has run may still be ending.
        wait_until("the shell alone", || place.living().len() == 1);
        // It comes back and reads on from where it was.
        let from = seen.stdout.len();
        let mut third = client.socket(&format!("{attach}?from={from}")).await;
        give(&mut third, b"again\n").await;
        let mut came = Came::default();
        read_until(&mut third, &mut came, |came| !came.stdout.is_empty()).await;
        read_until(&mut third, &mut came, |came| came.stdout.ends_with(b"\n")).await;
        assert_eq!(came.stdout, b"got again\r\n");
        assert_eq!(came.said("at").expect("it")["stdout"], from);
        say(&mut third, json!({ "eof": true })).await;
        let came = drain(&mut third).await;
        assert!(came.said("exit").is_some());
    });
}

#[test]
fn attach_and_cut_at_once() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let client = &host.client;
        let detach = client.open(json!({ "on_disconnect": "detach" })).await;
        let id = client.start(&detach, "exec sleep 1000").await;
        for _ in 0..100 {
            drop(client.socket(&format!("/v1/processes/{id}/attach")).await);
        }
        let info = client.get(&format!("/v1/processes/{id}")).await.expect(200);
        assert_eq!(info["state"], "running");
        client
            .delete(&format!("/v1/sessions/{detach}"))
            .await
            .expect(200);

        for _ in 0..100 {
            let close = client
                .open(json!({ "on_disconnect": "close", "grace": 1 }))
                .await;
            let id = client.start(&close, "exec sleep 1000").await;
            drop(client.socket(&format!("/v1/processes/{id}/attach")).await);
        }
        let mut left = usize::MAX;
        let began = Instant::now();
        while left > 0 {
            assert!(began.elapsed() < long(), "{left} sessions are left");
            left = client
                .get("/v1/sessions")
                .await
                .expect(200)
                .as_array()
                .expect("a list")
                .len();
        }
        assert_eq!(place.living(), []);
    });
}

#[test]
fn a_client_that_vanishes_is_missed_also_while_its_input_is_not_read() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let session = host.client.open(json!({ "grace": 0.3 })).await;
        let request = json!({ "argv": ["sleep", "1000"], "stdin": true });
        let mut socket = host.client.exec(&session, request).await;
        let mut came = Came::default();
        read_until(&mut socket, &mut came, |came| came.said("at").is_some()).await;
        // More than anything on the way holds: sending stands still.
        let filling = async {
            for _ in 0..64 {
                give(&mut socket, &[b'x'; 500_000]).await;
            }
        };
        let filled = tokio::time::timeout(Duration::from_secs(1), filling).await;
        assert!(filled.is_err());
        drop(socket);
        println!("gone after {:?}", place.all_gone());
    });
}

#[test]
#[ignore = "takes 40 s"]
fn a_client_on_tcp_that_shows_no_sign_of_life_is_gone() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let client = &host.client;
        let session = client.open(json!({ "grace": 0.3 })).await;
        let uri = format!(
            "ws://{}/v1/sessions/{session}/exec?token={}",
            client.tcp, client.token
        );
        let stream = tokio::net::TcpStream::connect(&client.tcp)
            .await
            .expect("the port");
        let (mut socket, _) = tokio_tungstenite::client_async(uri, stream)
            .await
            .expect("a WebSocket");
        let request = json!({ "argv": ["sleep", "1000"] }).to_string();
        socket.send(Message::text(request)).await.expect("sent");
        let began = Instant::now();
        while place.living().is_empty() {
            assert!(began.elapsed() < long(), "it does not start");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // It is still connected, and answers nothing.
        while !place.living().is_empty() {
            assert!(
                began.elapsed() < Duration::from_secs(60) + long(),
                "it still runs"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        println!("gone after {:?}", began.elapsed());
        assert!(began.elapsed() > Duration::from_secs(30));
        drop(socket);
    });
}

/// What the API costs. For people: `cargo test --release --test host measure -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn measure() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let client = &host.client;
        let session = client.open(json!({})).await;
        let request = json!({ "argv": ["seq", "1", "10000000"] });
        let began = Instant::now();
        let mut socket = client.exec(&session, request).await;
        let came = drain(&mut socket).await;
        let (took, bytes) = (began.elapsed(), came.stdout.len());
        println!("{bytes} bytes through exec in {took:?}");
        let path = format!("/v1/sessions/{session}/run");
        let median = |mut times: Vec<Duration>| {
            times.sort();
            times[times.len() / 2]
        };
        let mut times = Vec::new();
        for _ in 0..300 {
            let began = Instant::now();
            client
                .post(&path, json!({ "argv": ["true"] }))
                .await
                .expect(200);
            times.push(began.elapsed());
        }
        println!("run `true` in an open session: p50 {:?}", median(times));
        let mut times = Vec::new();
        for _ in 0..200 {
            let began = Instant::now();
            let session = client.open(json!({})).await;
            let path = format!("/v1/sessions/{session}");
            client
                .post(&format!("{path}/run"), json!({ "argv": ["true"] }))
                .await
                .expect(200);
            client.delete(&path).await.expect(200);
            times.push(began.elapsed());
        }
        println!(
            "open, run `true`, close, each over a connection of its own: p50 {:?}",
            median(times)
        );
        let mut times = Vec::new();
        for _ in 0..300 {
            let began = Instant::now();
            client.get("/healthz").await.expect(200);
            times.push(began.elapsed());
        }
        println!("healthz: p50 {:?}", median(times));
    });
}
