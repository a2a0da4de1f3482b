//! What the control API answers about jobs, by status and code.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::bench::Bench;

/// Status and body of a request.
fn ask(bench: &Bench, line: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let mut stream = UnixStream::connect(bench.place.state().join("host.sock")).expect("connect");
    let length = body.len();
    write!(
        stream,
        "{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .expect("write");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("read");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = serde_json::from_str(body).unwrap_or(Value::Null);
    (status.expect("a status"), body)
}

#[test]
fn every_failure_has_its_status_and_one_line() {
    let bench = Bench::new();
    let flow = "name: x\nsteps: { a: { input: 'Well?' } }\n";
    let (status, job) = ask(
        &bench,
        "POST /v1/jobs",
        &json!({ "flow": flow, "group": "g" }),
    );
    assert_eq!((status, &job["name"]), (201, &"x".into()), "{job}");
    let id = job["id"].as_str().expect("an id");
    bench.the_job("it asks", |job| job["asks"][0]["run"] == 1);
    let done = ask(
        &bench,
        "POST /v1/jobs",
        &json!({ "flow": "name: y\nsteps: { a: { sleep: 0 } }" }),
    )
    .1;
    let done = done["id"].as_str().expect("an id").to_owned();
    assert_eq!(
        ask(&bench, &format!("GET /v1/jobs/{done}/wait"), &Value::Null).0,
        200
    );
    let none = "j-00000000";
    let wrong = "name: x\nsteps:\n  a: { after: z, sleep: 1 }\n  b: { sleep: soon }\n";
    for (line, body, status, code) in [
        ("POST /v1/jobs".to_owned(), json!({}), 400, "bad_request"),
        (
            "POST /v1/jobs".to_owned(),
            json!({"flow": flow, "file": "/x"}),
            400,
            "bad_request",
        ),
        (
            "POST /v1/jobs".to_owned(),
            json!({"file": "x.yaml"}),
            400,
            "bad_request",
        ),
        (
            "POST /v1/jobs".to_owned(),
            json!({"file": "/nowhere/x.yaml"}),
            400,
            "bad_request",
        ),
        (
            "POST /v1/jobs".to_owned(),
            json!({"flow": wrong}),
            400,
            "bad_request",
        ),
        (
            "POST /v1/jobs".to_owned(),
            json!({"flow": flow, "cwd": "here"}),
            400,
            "bad_request",
        ),
        (
            "POST /v1/jobs".to_owned(),
            json!({"flow": flow, "inputs": {"z": 1}}),
            400,
            "bad_request",
        ),
        (
            "POST /v1/jobs".to_owned(),
            json!({"flow": flow, "policy": {"grace": -1}}),
            400,
            "bad_request",
        ),
        (
            "POST /v1/jobs".to_owned(),
            json!({"flow": flow, "colour": 1}),
            400,
            "bad_request",
        ),
        (
            "GET /v1/jobs?before=x".to_owned(),
            Value::Null,
            400,
            "bad_request",
        ),
        (
            format!("GET /v1/jobs/{none}"),
            Value::Null,
            404,
            "not_found",
        ),
        (
            format!("GET /v1/jobs/{none}/logs"),
            Value::Null,
            404,
            "not_found",
        ),
        (
            format!("GET /v1/jobs/{none}/wait"),
            Value::Null,
            404,
            "not_found",
        ),
        (
            format!("DELETE /v1/jobs/{none}"),
            Value::Null,
            404,
            "not_found",
        ),
        (
            format!("POST /v1/jobs/{none}/cancel"),
            Value::Null,
            404,
            "not_found",
        ),
        (
            format!("POST /v1/jobs/{none}/pause"),
            Value::Null,
            404,
            "not_found",
        ),
        (
            format!("POST /v1/jobs/{none}/resume"),
            Value::Null,
            404,
            "not_found",
        ),
        (
            format!("POST /v1/jobs/{none}/retry"),
            Value::Null,
            404,
            "not_found",
        ),
        (
            format!("POST /v1/jobs/{none}/answer"),
            json!({"answer": 1}),
            404,
            "not_found",
        ),
        (
            format!("GET /v1/jobs/{id}/wait?timeout=0.05"),
            Value::Null,
            408,
            "timeout",
        ),
        (
            format!("GET /v1/jobs/{id}/wait?timeout=-1"),
            Value::Null,
            400,
            "bad_request",
        ),
        (
            format!("GET /v1/jobs/{id}/logs?run=7"),
            Value::Null,
            404,
            "not_found",
        ),
        (
            format!("POST /v1/jobs/{id}/resume"),
            Value::Null,
            409,
            "conflict",
        ),
        (
            format!("POST /v1/jobs/{id}/retry"),
            Value::Null,
            400,
            "bad_request",
        ),
        (
            format!("POST /v1/jobs/{id}/retry"),
            json!({"from": "a"}),
            409,
            "conflict",
        ),
        (
            format!("POST /v1/jobs/{id}/answer"),
            json!({}),
            400,
            "bad_request",
        ),
        (
            format!("POST /v1/jobs/{id}/answer"),
            json!({"answer": 5}),
            400,
            "bad_request",
        ),
        (
            format!("POST /v1/jobs/{id}/answer"),
            json!({"run": 4, "answer": "x"}),
            409,
            "conflict",
        ),
        (
            format!("POST /v1/jobs/{done}/answer"),
            json!({"answer": "x"}),
            409,
            "conflict",
        ),
        (
            format!("POST /v1/jobs/{done}/pause"),
            Value::Null,
            409,
            "conflict",
        ),
        (
            format!("POST /v1/jobs/{done}/retry"),
            json!({"from": "Z z"}),
            400,
            "bad_request",
        ),
        (
            format!("PUT /v1/jobs/{id}"),
            Value::Null,
            405,
            "method_not_allowed",
        ),
        (
            "POST /v1/jobs/cancel".to_owned(),
            json!({}),
            400,
            "bad_request",
        ),
    ] {
        let (is, told) = ask(&bench, &line, &body);
        assert_eq!(
            (is, &told["error"]["code"]),
            (status, &code.into()),
            "{line} {body}: {told}"
        );
        let message = told["error"]["message"].as_str().unwrap_or_default();
        assert!(
            !message.is_empty() && !message.contains('\n'),
            "{line}: {told}"
        );
        let flow_is_wrong = body["flow"] == wrong;
        let problems = told["error"]["problems"].as_array().map_or(0, Vec::len);
        if flow_is_wrong {
            assert_eq!(problems, 2, "{told}");
            let first = &told["error"]["problems"][0];
            assert_eq!(
                (&first["line"], &first["code"]),
                (&3.into(), &"unknown_step".into()),
                "{told}"
            );
        }
    }
    let (status, told) = ask(
        &bench,
        &format!("POST /v1/jobs/{done}/cancel"),
        &Value::Null,
    );
    assert_eq!(
        (status, &told["state"]),
        (200, &"completed".into()),
        "it stays as it is: {told}"
    );
    let (status, told) = ask(&bench, "POST /v1/jobs/cancel", &json!({ "group": "g" }));
    assert_eq!((status, told), (200, json!({ "cancelled": [id] })));
    let (_, job) = ask(&bench, &format!("GET /v1/jobs/{id}"), &Value::Null);
    assert_eq!(
        (&job["state"], &job["released"], &job["remaining"]),
        (&"cancelled".into(), &true.into(), &0.into())
    );
    assert_eq!(job["runs"][0]["state"], "cancelled");
    let (status, events) = ask(&bench, &format!("GET /v1/events?job={id}"), &Value::Null);
    let events = events.as_array().expect("events");
    assert_eq!((status, &events[0]["kind"]), (200, &"job.created".into()));
    assert!(events.iter().all(|event| event["job"] == *id), "{events:?}");
    assert_eq!(
        ask(&bench, "GET /v1/agents/pool", &Value::Null),
        (200, json!([]))
    );
    assert_eq!(
        ask(&bench, &format!("DELETE /v1/jobs/{id}"), &Value::Null).0,
        204
    );
}
