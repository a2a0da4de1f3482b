//! Work that is handed on: its result comes back, its session is gone, and there is a limit to it.

use serde_json::json;

use crate::client::Mcp;
use crate::support::{Place, run};

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
