//! Every refusal: its status, its code, and one clear line.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use hyper::Method;
use serde_json::json;

use crate::support::{Place, run};

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let client = &host.client;
        let session = client.open(json!({})).await;
        let id = client.start(&session, "exec sleep 1000").await;
        let ended = client.start(&session, "true").await;
        client
            .get(&format!("/v1/processes/{ended}/wait"))
            .await
            .expect(200);
        client
            .post("/v1/sessions", json!({ "name": "taken" }))
            .await
            .expect(201);
        let session = format!("/v1/sessions/{session}");
        let process = format!("/v1/processes/{id}");
        let ended = format!("/v1/processes/{ended}");
        let post = Method::POST;
        for (method, path, body, status, code, part) in [
            (
                Method::GET,
                "/v1/nothing".to_owned(),
                json!({}),
                404,
                "not_found",
                "nothing",
            ),
            (
                Method::PUT,
                "/v1/sessions".to_owned(),
                json!({}),
                405,
                "method_not_allowed",
                "method",
            ),
            (
                Method::GET,
                "/v1/sessions/nobody".to_owned(),
                json!({}),
                404,
                "not_found",
                "nobody",
            ),
            (
                Method::DELETE,
                "/v1/sessions/nobody".to_owned(),
                json!({}),
                404,
                "not_found",
                "nobody",
            ),
            (
                Method::GET,
                "/v1/sessions?al=true".to_owned(),
                json!({}),
                400,
                "bad_request",
                "al",
            ),
            (
                post.clone(),
                "/v1/sessions".to_owned(),
                json!({ "nam": "x" }),
                400,
                "bad_request",
                "nam",
            ),
            (
                post.clone(),
                "/v1/sessions".to_owned(),
                json!([]),
                400,
                "bad_request",
                "",
            ),
            (
                post.clone(),
                "/v1/sessions".to_owned(),
                json!({ "name": "a b" }),
                400,
                "bad_request",
                "a b",
            ),
            (
                post.clone(),
                "/v1/sessions".to_owned(),
                json!({ "name": "taken" }),
                409,
                "conflict",
                "taken",
            ),
            (
                post.clone(),
                "/v1/sessions".to_owned(),
                json!({ "cwd": "x" }),
                400,
                "bad_request",
                "absolute",
            ),
            (
                post.clone(),
                "/v1/sessions".to_owned(),
                json!({ "parent": "s-x" }),
                404,
                "not_found",
                "s-x",
            ),
            (
                post.clone(),
                "/v1/sessions".to_owned(),
                json!({ "policy": { "idle": -1 } }),
                400,
                "bad_request",
                "idle",
            ),
            (
                post.clone(),
                "/v1/sessions".to_owned(),
                json!({ "policy": { "contain": "tight" } }),
                400,
                "bad_request",
                "tight",
            ),
            (
                Method::PATCH,
                session.clone(),
                json!({ "policy": { "memory": 5 } }),
                400,
                "bad_request",
                "memory",
            ),
            (
                post.clone(),
                format!("{session}/run"),
                json!({ "argv": [] }),
                400,
                "bad_request",
                "argv",
            ),
            (
                post.clone(),
                format!("{session}/run"),
                json!({ "argv": ["/no/such"] }),
                400,
                "no_program",
                "/no/such",
            ),
            (
                post.clone(),
                format!("{session}/run"),
                json!({ "argv": ["true"], "cwd": "/no" }),
                400,
                "bad_request",
                "",
            ),
            (
                post.clone(),
                format!("{session}/run"),
                json!({ "argv": ["true"], "stdin_base64": "?" }),
                400,
                "bad_request",
                "base64",
            ),
            (
                post.clone(),
                format!("{session}/run"),
                json!({ "argv": ["true"], "timeout": -1 }),
                400,
                "bad_request",
                "timeout",
            ),
            (
                post.clone(),
                format!("{session}/processes"),
                json!({ "argv": ["true"], "patterns": [{ "pattern": "(", "regex": true }] }),
                400,
                "bad_request",
                "",
            ),
            (
                Method::GET,
                "/v1/processes/p-nobody".to_owned(),
                json!({}),
                404,
                "not_found",
                "p-nobody",
            ),
            (
                Method::GET,
                "/v1/processes/../x".to_owned(),
                json!({}),
                404,
                "not_found",
                "",
            ),
            (
                Method::GET,
                format!("{process}/output?stream=stderr"),
                json!({}),
                400,
                "bad_request",
                "standard error",
            ),
            (
                Method::GET,
                format!("{process}/output?from=-1"),
                json!({}),
                400,
                "bad_request",
                "",
            ),
            (
                post.clone(),
                format!("{process}/signal"),
                json!({ "signal": "NONE" }),
                400,
                "bad_request",
                "NONE",
            ),
            (
                post.clone(),
                format!("{process}/signal"),
                json!({ "signal": 99 }),
                400,
                "bad_request",
                "99",
            ),
            (
                post.clone(),
                format!("{process}/signal"),
                json!({ "signal": 15, "pid": 1 }),
                400,
                "bad_request",
                "start_time",
            ),
            (
                post.clone(),
                format!("{process}/signal"),
                json!({ "signal": 15, "pid": 1, "start_time": 0 }),
                404,
                "not_found",
                "",
            ),
            (
                post.clone(),
                format!("{process}/resize"),
                json!({ "rows": 1, "cols": 1 }),
                409,
                "conflict",
                "not a terminal",
            ),
            (
                post.clone(),
                format!("{ended}/signal"),
                json!({ "signal": 15 }),
                409,
                "conflict",
                "ended",
            ),
            (
                post.clone(),
                format!("{ended}/input"),
                json!({}),
                409,
                "conflict",
                "",
            ),
            (
                Method::GET,
                format!("{session}/exec"),
                json!({}),
                400,
                "bad_request",
                "",
            ),
            (
                Method::GET,
                "/v1/events?session=nobody".to_owned(),
                json!({}),
                404,
                "not_found",
                "nobody",
            ),
            (
                post.clone(),
                "/v1/host/shutdown".to_owned(),
                json!({ "al": 1 }),
                400,
                "bad_request",
                "al",
            ),
        ] {
            let body = if method == Method::GET {
                Vec::new()
            } else {
                body.to_string().into()
            };
            let answer = client.raw(method.clone(), &path, body).await;
            assert_eq!(
                answer.status,
                status,
                "{method} {path}: {}",
                String::from_utf8_lossy(&answer.bytes)
            );
            let (got, message) = answer.error(status);
            assert_eq!(got, code, "{method} {path}: {message}");
            assert!(
                message.contains(part) && !message.contains('\n'),
                "{method} {path}: {message}"
            );
        }
        // One byte too many: a client that is refused before it has written all may not hear why.
        let large = vec![b' '; (4 << 20) + 1];
        let answer = client.raw(post, "/v1/sessions", large).await;
        assert_eq!(answer.error(413).0, "too_large");
    });
}

#[test]
fn what_is_beyond_a_limit_is_refused() {
    run(async {
        let place = Place::new();
        let mut command = place.command(&[]);
        command.env("HOSTLER_MAX_SESSIONS", "2");
        let host = crate::support::Host::spawn(command, &place.mark);
        let client = &host.client;
        let session = client.open(json!({ "max_background": 1 })).await;
        client.start(&session, "exec sleep 1000").await;
        let path = format!("/v1/sessions/{session}/processes");
        let answer = client.post(&path, json!({ "argv": ["true"] })).await;
        assert_eq!(answer.error(429).0, "limit");
        let other = client.open(json!({})).await;
        client.start(&other, "exec sleep 1000").await;
        let answer = client.post("/v1/sessions", json!({})).await;
        assert_eq!(answer.error(429).0, "limit");
    });
}

/// What a host that does not start says, and its exit status.
fn refused(command: &mut Command) -> (i32, String) {
    let output = command.output().expect("the host");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().expect("a code"), text)
}

#[test]
fn a_host_that_cannot_start_says_why() {
    let place = Place::new();
    let config = place.dir.path().join("config.toml");
    std::fs::write(&config, "[policy]\nidle = 'soon'\n").expect("written");
    let file = config.to_str().expect("text");
    let (code, text) = refused(&mut place.command(&["--config", file]));
    assert_eq!(code, 2, "{text}");
    assert!(
        text.contains("policy.idle") && text.contains("soon") && text.contains("seconds"),
        "{text}"
    );
    assert!(!place.state_dir().exists(), "nothing was started");
    let (code, text) = refused(place.command(&[]).env("HOSTLER_POLICY_GRACE", "x"));
    assert!(code == 2 && text.contains("HOSTLER_POLICY_GRACE"), "{text}");
    let (code, text) = refused(&mut place.command(&["--config", "/no/such"]));
    assert!(code == 1 && text.contains("/no/such"), "{text}");

    std::fs::create_dir(place.state_dir()).expect("the state");
    let private = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(place.state_dir(), private).expect("chmod");
    std::fs::write(place.state_dir().join("token"), "x").expect("written");
    let (code, text) = refused(&mut place.command(&[]));
    assert!(code == 1 && text.contains("token"), "{text}");
    std::fs::remove_file(place.state_dir().join("token")).expect("removed");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let (code, text) = refused(&mut place.command(&["--listen", &address]));
    assert!(code != 0 && text.contains(&address), "{text}");
    assert_eq!(
        text.lines()
            .filter(|line| line.starts_with("hostler: "))
            .count(),
        1,
        "{text}"
    );

    // A ledger that is none.
    let found: Vec<_> = std::fs::read_dir(place.state_dir())
        .expect("the state")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|kind| kind == "db" || kind == "sqlite")
        })
        .collect();
    for ledger in &found {
        std::fs::write(ledger, vec![b'x'; 8192]).expect("written");
    }
    if !found.is_empty() {
        let (code, text) = refused(&mut place.command(&[]));
        assert!(code == 1 && text.contains("damaged"), "{text}");
    }
}

#[test]
fn a_second_host_is_refused_with_the_first_ones_pid_and_address() {
    let place = Place::new();
    let host = place.host();
    let (code, text) = refused(&mut place.command(&[]));
    assert_eq!(code, 1);
    assert!(text.contains(&format!("pid {}", host.pid())), "{text}");
    assert!(
        text.contains(host.client.socket.to_str().expect("text")),
        "{text}"
    );
    run(async { drop(host.client.get("/healthz").await.expect(200)) });
}

/// A small file system of its own, gone with this.
struct Small<'a>(&'a std::path::Path);

impl<'a> Small<'a> {
    fn mount(at: &'a std::path::Path) -> Option<Self> {
        std::fs::create_dir(at).expect("a directory");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs"])
            .arg(at);
        mount
            .status()
            .is_ok_and(|status| status.success())
            .then_some(Self(at))
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn on_a_full_disk_new_work_is_refused_and_old_work_goes_on() {
    let place = Place::new();
    let state = place.state_dir();
    let Some(_small) = Small::mount(&state) else {
        println!("skipped: a file system cannot be mounted here");
        return;
    };
    let host = place.host();
    run(async {
        let client = &host.client;
        let session = client.open(json!({})).await;
        let id = client.start(&session, "exec sleep 1000").await;
        let fill = std::fs::File::create(state.join("fill")).expect("a file");
        let mut block = 1 << 20;
        while block > 0 {
            use std::io::Write;
            match (&fill).write_all(&vec![1; block]) {
                Ok(()) => {}
                Err(_) => block /= 2,
            }
        }
        let mut refused = 0;
        for _ in 0..50 {
            let answer = client.post("/v1/sessions", json!({})).await;
            if answer.status != 201 {
                assert_eq!(answer.error(503).0, "unavailable");
                refused += 1;
            }
        }
        assert!(refused > 0);
        let process = client.get(&format!("/v1/processes/{id}")).await.expect(200);
        assert_eq!(process["state"], "running");
        fill.set_len(0).expect("emptied");
        client.post("/v1/sessions", json!({})).await.expect(201);
        let report = client
            .delete(&format!("/v1/sessions/{session}"))
            .await
            .expect(200);
        assert_eq!(report["remaining"], 0);
    });
    assert_eq!(host.stop().0.code(), Some(0));
    assert_eq!(place.living(), []);
}
