//! What a host that was killed had, as the next one has it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Client, Place, long, run};

async fn until(client: &Client, id: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let path = format!("/v1/processes/{id}");
    let began = Instant::now();
    loop {
        let process = client.get(&path).await.expect(200);
        if holds(&process) {
            return process;
        }
        assert!(began.elapsed() < long(), "not in time: {what}: {process}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn start(client: &Client, session: &str, mut body: Value, script: &str) -> String {
    body["argv"] = json!(["sh", "-c", script]);
    let path = format!("/v1/sessions/{session}/processes");
    let process = client.post(&path, body).await.expect(201);
    process["id"].as_str().expect("an id").to_owned()
}

async fn matches(client: &Client, id: &str) -> Vec<Value> {
    let path = format!("/v1/processes/{id}/output");
    let answer = client.get(&path).await;
    assert_eq!(answer.status, 200);
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    text.lines().map(Into::into).collect()
}

#[test]
fn what_has_ended_is_still_there_and_pauses_and_times_go_on() {
    let place = Place::new();
    let host = place.host();
    run(async {
        let client = host.client.clone();
        let policy = json!({ "on_host_exit": "keep", "keep_for": 60, "grace": 0.3 });
        let session = client.open(policy).await;
        let ended = start(&client, &session, json!({}), "echo was here; exit 3").await;
        let limited = start(
            &client,
            &session,
            json!({ "timeout": 4 }),
            "exec sleep 1000",
        )
        .await;
        let again = json!({ "when": "on_failure", "pause": 2, "longest": 9, "most": 5 });
        let pausing = start(
            &client,
            &session,
            json!({ "restart": again }),
            "echo run; exit 9",
        )
        .await;
        until(&client, &ended, "it ends", |it| it["exit"]["code"] == 3).await;
        until(&client, &pausing, "it pauses", |it| {
            it["state"] == "restarting"
        })
        .await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        host.kill();

        let next = place.host();
        let began = Instant::now();
        let client = &next.client;
        let found = client
            .get(&format!("/v1/processes/{ended}"))
            .await
            .expect(200);
        assert_eq!(
            (&found["state"], &found["exit"]["code"]),
            (&json!("exited"), &json!(3))
        );
        assert_eq!(matches(client, &ended).await, ["was here"]);
        let all = client
            .get(&format!("/v1/sessions/{session}/processes"))
            .await
            .expect(200);
        let ids: Vec<&str> = all
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| one["id"].as_str().expect("an id"))
            .collect();
        assert_eq!(ids, [&ended, &limited, &pausing]);

        let found = until(client, &pausing, "it is started again", |it| {
            it["starts"] == 2
        })
        .await;
        assert_ne!(found["state"], "lost", "{found}");
        let found = until(client, &limited, "its time is over", |it| {
            it["exit"].is_object()
        })
        .await;
        assert!(
            began.elapsed() < Duration::from_millis(3900),
            "it began anew: {:?}",
            began.elapsed()
        );
        assert_eq!(found["exit"]["signal"], 15, "{found}");
        // Its pause is twice as long the second time: the host that is killed does not make it forget.
        let found = until(client, &pausing, "it has failed twice", |it| {
            it["starts"] == 2 && it["state"] == "restarting"
        })
        .await;
        assert_eq!(found["exit"]["code"], 9);
        let report = client
            .delete(&format!("/v1/sessions/{session}"))
            .await
            .expect(200);
        assert_eq!(report["remaining"], 0);
    });
    assert_eq!(place.living(), []);
}
