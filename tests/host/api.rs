//! Every endpoint, as it should be.

use serde_json::{Value, json};

use crate::support::{Place, run};

#[test]
fn the_host_tells_of_itself() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let client = &host.client;
        let health = client.get("/healthz").await.expect(200);
        assert_eq!(health["status"], "ok");
        assert_eq!(health["pid"], host.pid());
        let facts = client.get("/v1/host").await.expect(200);
        assert_eq!(
            facts["state_dir"],
            place.state_dir().to_str().expect("text")
        );
        assert_eq!(facts["addresses"].as_array().expect("a list").len(), 2);
        assert_eq!(
            (&facts["sessions"], &facts["draining"]),
            (&json!(0), &json!(false))
        );
        let document = client.get("/v1/openapi.json").await.expect(200);
        let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        let kept: Value =
            serde_json::from_slice(&std::fs::read(kept).expect("kept")).expect("JSON");
        assert_eq!(document, kept);
    });
}

#[test]
fn every_path_of_the_document_is_served() {
    run(async {
        let place = Place::new();
        let host = place.host();
        for (path, item) in hostler_gateway::document().paths.paths {
            let path = path
                .replace("{session}", "s-nobody")
                .replace("{id}", "p-nobody");
            let item = serde_json::to_value(item).expect("JSON");
            for method in item.as_object().expect("methods").keys() {
                if path.ends_with("shutdown") {
                    continue;
                }
                let method: hyper::Method = method.to_uppercase().parse().expect("a method");
                let answer = host.client.raw(method.clone(), &path, Vec::new()).await;
                let text = String::from_utf8_lossy(&answer.bytes).into_owned();
                assert!(answer.status != 405, "{method} {path}: {text}");
                assert!(
                    !text.contains("nothing at this path"),
                    "{method} {path}: {text}"
                );
            }
        }
    });
}

#[test]
fn a_session_from_its_opening_to_its_report() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let client = &host.client;
        let body = json!({
            "name": "work", "cwd": "/tmp", "env": { "HOSTLER_MARK": place.mark, "A": "b" },
            "policy": { "idle": 3600, "grace": 0.5, "cpu": 2, "on_host_exit": "keep" },
        });
        let session = client.post("/v1/sessions", body).await.expect(201);
        let id = session["id"].as_str().expect("an id").to_owned();
        assert_eq!(session["state"], "active");
        assert_eq!(session["policy"]["idle"], 3600.0);
        assert_eq!(session["policy"]["cpu"], 2.0);
        assert_eq!(session["policy"]["on_host_exit"], "keep");
        assert_eq!(client.get("/v1/sessions/work").await.expect(200)["id"], id);
        let list = client.get("/v1/sessions").await.expect(200);
        assert_eq!(list.as_array().expect("a list").len(), 1);

        let change = json!({ "policy": { "idle": 0, "daily_reset": 4 } });
        let changed = client.patch("/v1/sessions/work", change).await.expect(200);
        assert_eq!(changed["policy"]["idle"], Value::Null);
        assert_eq!(changed["policy"]["daily_reset"], 4);
        assert_eq!(changed["policy"]["grace"], 0.5);

        let run = json!({ "argv": ["sh", "-c", "echo $A; pwd; echo err >&2; cat; exit 3"], "stdin": "given" });
        let ran = client.post("/v1/sessions/work/run", run).await.expect(200);
        assert_eq!(ran["stdout"], "b\n/tmp\ngiven");
        assert_eq!(ran["stderr"], "err\n");
        assert_eq!(
            (&ran["exit"]["code"], &ran["exit"]["status"]),
            (&json!(3), &json!(3))
        );
        assert_eq!(
            (&ran["truncated"], &ran["timed_out"]),
            (&json!(false), &json!(false))
        );
        let run = json!({ "argv": ["sleep", "1000"], "timeout": 0.2 });
        let ran = client.post("/v1/sessions/work/run", run).await.expect(200);
        assert_eq!(ran["timed_out"], true, "{ran}");
        let run = json!({ "argv": ["head", "-c", "1500000", "/dev/zero"], "encoding": "base64" });
        let ran = client.post("/v1/sessions/work/run", run).await.expect(200);
        assert_eq!(ran["truncated"], true);
        assert_eq!(
            ran["stdout_base64"].as_str().expect("base64").len(),
            (1usize << 20).div_ceil(3) * 4
        );

        let process = client.start(&id, "sleep 1000 & wait").await;
        let census = client.get("/v1/sessions/work/census").await.expect(200);
        let census = census.as_array().expect("a list").clone();
        assert!(
            census
                .iter()
                .any(|entry| entry["process"] == process.as_str()),
            "{census:?}"
        );
        // The shell may not have come to it yet.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let census = client.get("/v1/sessions/work/census").await.expect(200);
            let census = census.as_array().expect("a list");
            if census.iter().any(|entry| entry["command"] == "sleep") {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{census:?}");
            tokio::task::yield_now().await;
        }

        let report = client.delete("/v1/sessions/work").await.expect(200);
        assert_eq!(report["session"], id);
        assert_eq!(report["reason"], "client");
        assert_eq!(report["remaining"], 0);
        assert_eq!(report["by"]["why"], "DELETE /v1/sessions/work");
        assert!(
            report["by"]["who"]
                .as_str()
                .expect("who")
                .starts_with("test (uid ")
        );
        let released = report["released"].as_array().expect("a list");
        let ended = released
            .iter()
            .find(|released| released["id"] == process.as_str());
        assert_eq!(ended.expect("the process")["how"], "terminated");
        assert_eq!(place.living(), []);
        // Again, by name and by id: the same report.
        for name in ["work", id.as_str()] {
            let again = client
                .delete(&format!("/v1/sessions/{name}"))
                .await
                .expect(200);
            assert_eq!(again["took_ms"], report["took_ms"]);
        }
        let closed = client.get(&format!("/v1/sessions/{id}")).await.expect(200);
        assert_eq!(closed["state"], "closed");
        assert_eq!(closed["report"]["remaining"], 0);
        assert_eq!(client.get("/v1/sessions").await.expect(200), json!([]));
        let all = client.get("/v1/sessions?all=true").await.expect(200);
        assert_eq!(all.as_array().expect("a list").len(), 1);
    });
}

#[test]
fn a_process_in_the_background() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let client = &host.client;
        let session = client.open(json!({ "grace": 1 })).await;
        let id = client
            .start(&session, "while read line; do echo got $line; done; exit 7")
            .await;
        let path = format!("/v1/processes/{id}");
        let process = client.get(&path).await.expect(200);
        assert_eq!(
            (&process["state"], &process["session"]),
            (&json!("running"), &json!(session))
        );
        assert_eq!(process["argv"][0], "sh");
        assert!(
            process["pid"].as_u64() > Some(1)
                && process["started"].as_u64() > Some(1_600_000_000_000)
        );
        let all = client.get("/v1/processes").await.expect(200);
        assert_eq!(all[0]["id"], id);
        let (code, _) = client
            .get(&format!("{path}/wait?timeout=0.05"))
            .await
            .error(408);
        assert_eq!(code, "timeout");

        let answer = client
            .raw(
                hyper::Method::POST,
                &format!("{path}/input"),
                b"one\n".to_vec(),
            )
            .await;
        assert_eq!(answer.status, 204);
        let answer = client
            .raw(
                hyper::Method::POST,
                &format!("{path}/input?eof=true"),
                b"two\n".to_vec(),
            )
            .await;
        assert_eq!(answer.status, 204);
        let ended = client.get(&format!("{path}/wait")).await.expect(200);
        assert_eq!(
            (&ended["state"], &ended["exit"]["code"]),
            (&json!("exited"), &json!(7))
        );
        let output = client.get(&format!("{path}/output")).await;
        assert_eq!(output.bytes, b"got one\ngot two\n");
        assert_eq!(output.header("hostler-next"), "16");
        assert_eq!(output.header("hostler-end"), "true");
        let output = client.get(&format!("{path}/output?from=4&limit=3")).await;
        assert_eq!(
            (output.bytes.as_slice(), output.header("hostler-end")),
            (&b"one"[..], "false")
        );

        let id = client
            .start(
                &session,
                "trap 'echo hup' HUP; echo up; while :; do sleep 0.05; done",
            )
            .await;
        let path = format!("/v1/processes/{id}");
        let output = async || client.get(&format!("{path}/output")).await.bytes;
        while output().await.is_empty() {}
        let signal = client
            .post(&format!("{path}/signal"), json!({ "signal": "HUP" }))
            .await;
        assert_eq!(signal.status, 204);
        while output().await != b"up\nhup\n" {}
        let ended = client
            .delete(&format!("{path}?grace=0.2"))
            .await
            .expect(200);
        assert_eq!(ended["state"], "exited");
        assert!(ended["exit"]["signal"].is_number(), "{ended}");
    });
}

#[test]
fn a_process_that_is_kept_outlives_its_session() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let client = &host.client;
        let session = client.open(json!({})).await;
        let id = client.start(&session, "echo here; exec sleep 1000").await;
        let keep = client
            .post(
                &format!("/v1/processes/{id}/keep"),
                json!({ "name": "kept" }),
            )
            .await;
        assert_eq!(keep.expect(200)["name"], "kept");
        let argv = json!({ "argv": ["sleep", "1000"] });
        client
            .post(&format!("/v1/sessions/{session}/processes"), argv)
            .await
            .expect(201);
        let report = client
            .delete(&format!("/v1/sessions/{session}"))
            .await
            .expect(200);
        assert_eq!(report["kept"], json!([id]));
        assert_eq!(place.living().len(), 1);
        let process = client.get(&format!("/v1/processes/{id}")).await.expect(200);
        assert_eq!(process["state"], "running");
        let report = client.delete("/v1/sessions/kept").await.expect(200);
        assert_eq!((&report["remaining"], place.living().len()), (&json!(0), 0));
    });
}

#[test]
fn a_terminal_has_a_size() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let client = &host.client;
        let session = client.open(json!({})).await;
        let script = "trap 'stty size' WINCH; stty size; while :; do sleep 0.05; done";
        let body = json!({ "argv": ["sh", "-c", script], "tty": { "rows": 30, "cols": 100 } });
        let process = client
            .post(&format!("/v1/sessions/{session}/processes"), body)
            .await
            .expect(201);
        assert_eq!(
            (&process["tty"], &process["size"]["rows"]),
            (&json!(true), &json!(30))
        );
        let path = format!("/v1/processes/{}", process["id"].as_str().expect("an id"));
        let output = async || client.get(&format!("{path}/output")).await.bytes;
        while output().await != b"30 100\r\n" {}
        let size = json!({ "rows": 40, "cols": 90 });
        assert_eq!(
            client.post(&format!("{path}/resize"), size).await.status,
            204
        );
        while output().await != b"30 100\r\n40 90\r\n" {}
    });
}

#[test]
fn events_are_read_and_followed_once_and_in_order() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let client = &host.client;
        let first = client.open(json!({})).await;
        let events = client.get("/v1/events").await.expect(200);
        let events = events.as_array().expect("a list").clone();
        let opened = events
            .iter()
            .find(|event| event["kind"] == "session.opened")
            .expect("it");
        assert_eq!(opened["session"], first);
        assert_eq!(opened["why"], "POST /v1/sessions");
        let after = opened["seq"].as_u64().expect("a number");

        let follower = {
            use http_body_util::BodyExt;
            let request = hyper::Request::get(format!("/v1/events?after={after}&session={first}"))
                .header("host", "hostler")
                .header("accept", "text/event-stream")
                .body(http_body_util::Empty::<hyper::body::Bytes>::new())
                .expect("a request");
            let stream = hyper_util::rt::TokioIo::new(client.unix().await);
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream)
                .await
                .expect("connected");
            tokio::spawn(connection);
            let answer = sender.send_request(request).await.expect("an answer");
            assert_eq!(answer.headers()["content-type"], "text/event-stream");
            let mut body = answer.into_body();
            tokio::spawn(async move {
                let _sender = sender;
                let mut text = String::new();
                while !text.contains("session.closed") {
                    let frame = body.frame().await.expect("more").expect("a frame");
                    text.push_str(&String::from_utf8_lossy(frame.data_ref().expect("data")));
                }
                text
            })
        };
        for _ in 0..50 {
            let ran = client
                .post(
                    &format!("/v1/sessions/{first}/run"),
                    json!({ "argv": ["true"] }),
                )
                .await;
            ran.expect(200);
        }
        client.open(json!({})).await;
        client
            .delete(&format!("/v1/sessions/{first}"))
            .await
            .expect(200);
        let text = tokio::time::timeout(crate::support::long(), follower)
            .await
            .expect("in time")
            .expect("text");
        let live: Vec<Value> = text
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .map(|data| serde_json::from_str(data).expect("JSON"))
            .collect();
        let kept = client
            .get(&format!(
                "/v1/events?after={after}&session={first}&limit=10000"
            ))
            .await
            .expect(200);
        assert_eq!(json!(live), kept);
        let seqs: Vec<u64> = live
            .iter()
            .filter_map(|event| event["seq"].as_u64())
            .collect();
        assert!(
            seqs.is_sorted_by(|a, b| a < b) && seqs.len() > 100,
            "{}",
            seqs.len()
        );
    });
}
