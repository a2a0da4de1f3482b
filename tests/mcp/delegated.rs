//! Work that is handed on: its result comes back, its session is gone, and there is a limit to it.

use serde_json::json;

use crate::client::Mcp;
use crate::support::{Host, Place, long, run};

#[test]
fn the_result_comes_back_and_nothing_is_left_below() {
    let place = Place::new();
    let host = place.host();
    run(async {
        let session = host.client.open(json!({})).await;
        let mcp = Mcp::new(&host.client, &session).await;
        let work = json!({
            "agent": "shell", "cwd": "/usr", "prompt": "pwd; setsid sleep 1000 >/dev/null 2>&1 & echo done",
        });
        let done = mcp.ok("delegate", work).await;
        let said = done["result"].as_str().expect("text");
        assert!(said.contains("/usr\n") && said.contains("done\n"), "{done}");
        assert_eq!(done["stop_reason"], "end_turn");
        let sessions = host.client.get("/v1/sessions").await.expect(200);
        let open = sessions.as_array().expect("a list").iter();
        let open: Vec<_> = open.filter(|one| one["state"] != "closed").collect();
        assert_eq!(open.len(), 1, "{sessions}");
        let refused = mcp.refused("delegate", json!({ "agent": "nobody", "prompt": "x" }));
        let refused = refused.await;
        assert!(refused.contains("no agent `nobody`"), "{refused}");
        let slow = json!({ "agent": "shell", "prompt": "sleep 1000", "timeout": 0.5 });
        let refused = mcp.refused("delegate", slow).await;
        assert!(refused.contains("not done after 0.5 s"), "{refused}");
        mcp.leave().await;
    });
    host.stop();
    place.all_gone();
}

#[test]
fn depth_and_number_are_bounded_and_children_close_with_their_parent() {
    let place = Place::new();
    let config = place.dir.path().join("config.toml");
    std::fs::write(&config, "[delegation]\nmax_depth = 2\nmax_children = 2\n").expect("written");
    let host = place.host_with(&["--config", config.to_str().expect("text")]);
    run(async {
        let root = host.client.open(json!({})).await;
        let below =
            |parent: &str| json!({ "agent": "shell", "session": { "parent": parent, "cwd": "/" } });
        let open = async |parent: &str| host.client.post("/v1/conversations", below(parent)).await;
        let first = open(&root).await.expect(201);
        let first = first["session"].as_str().expect("an id").to_owned();
        open(&root).await.expect(201);
        let (_, message) = open(&root).await.error(429);
        assert!(message.contains("max_children"), "{message}");
        let second = open(&first).await.expect(201);
        let second = second["session"].as_str().expect("an id").to_owned();
        let (_, message) = open(&second).await.error(403);
        assert!(message.contains("max_depth"), "{message}");
        let report = host.client.delete(&format!("/v1/sessions/{root}")).await;
        assert_eq!(report.expect(200)["remaining"], 0);
        let sessions = host.client.get("/v1/sessions").await.expect(200);
        let open = sessions.as_array().expect("a list").iter();
        assert_eq!(
            open.filter(|one| one["state"] != "closed").count(),
            0,
            "{sessions}"
        );
    });
    host.stop();
    place.all_gone();
}

/// Sessions that are not closed.
async fn open(host: &Host) -> usize {
    let sessions = host.client.get("/v1/sessions").await.expect(200);
    let sessions = sessions.as_array().expect("a list").iter();
    sessions.filter(|one| one["state"] != "closed").count()
}

#[test]
fn work_that_is_not_wanted_any_more_ends_at_once() {
    let place = Place::new();
    let host = place.host();
    let work = format!("env MARK={} setsid sleep 1000", place.mark);
    let work = json!({ "agent": "shell", "prompt": work });
    run(async {
        for why in ["taken back", "killed", "cancelled"] {
            let parent = json!({ "agent": "shell", "session": { "cwd": "/" } });
            let parent = host.client.post("/v1/conversations", parent).await;
            let parent = parent.expect(201)["id"].as_str().expect("an id").to_owned();
            let path = format!("/v1/conversations/{parent}");
            let turn = json!({ "text": "sleep 1000" });
            let prompt = format!("{path}/prompt?wait=false");
            host.client.post(&prompt, turn).await.expect(202);
            let mcp = Mcp::new(&host.client, &parent).await;
            let call = mcp.begin("delegate", work.clone()).await;
            let began = tokio::time::Instant::now();
            while place.living().is_empty() || attached(&host, &parent).await == 0 {
                assert!(began.elapsed() < long(), "it is not at work");
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            match why {
                "taken back" => call.cancel(None).await.expect("told"),
                "killed" => mcp.kill(),
                _ => {
                    let cancel = format!("{path}/cancel");
                    let cancelled = host.client.post(&cancel, json!({})).await;
                    assert_eq!(cancelled.status, 204);
                    let answer = call.await_response().await;
                    let answer = format!("{:?}", answer.expect("an answer"));
                    assert!(
                        answer.contains("cut off") || answer.contains("closed"),
                        "{answer}"
                    );
                }
            }
            let took = place.all_gone();
            println!("{why}: gone after {took:?}");
            let began = tokio::time::Instant::now();
            while open(&host).await > 1 {
                assert!(began.elapsed() < long(), "{why}: its session is open");
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            let closed = host.client.delete(&format!("/v1/sessions/{parent}")).await;
            assert_eq!(closed.expect(200)["remaining"], 0);
        }
    });
    host.stop();
    place.all_gone();
}

/// How many clients the sessions below this one have.
async fn attached(host: &Host, parent: &str) -> u64 {
    let sessions = host.client.get("/v1/sessions").await.expect(200);
    let sessions = sessions.as_array().expect("a list").iter();
    let below = sessions.filter(|one| one["parent"] == *parent);
    below.filter_map(|one| one["clients"].as_u64()).sum()
}
