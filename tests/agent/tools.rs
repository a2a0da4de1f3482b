//! The host's own tools, offered to agents.

use hostler_agent::Tools;

use super::support::*;

fn tools() -> Option<Tools> {
    Some(Tools {
        command: "/opt/hostler".into(),
        args: vec!["mcp".into()],
        env: vec![("HOSTLER_STATE_DIR".into(), "/state".into())],
    })
}

async fn offered(host: &Host, servers: &[&str]) -> (String, serde_json::Value) {
    let mut new = host.conversation();
    new.mcp_servers = servers
        .iter()
        .map(|server| serde_json::from_str(server).expect("JSON"))
        .collect();
    let conversation = host.agents.open(new, by()).await.expect("a conversation");
    let turn = prompt(&conversation, "mcp").await;
    soon("the end", turn.ended()).await;
    let said = said(&conversation, turn.id).await.concat();
    let session = conversation.session().id().to_string();
    host.end(&conversation).await;
    (session, serde_json::from_str(&said).expect("JSON"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_agent_sees_them_beside_its_clients_servers() {
    let mut with = options();
    with.tools = tools();
    let host = Host::with(spec(&[]), with);
    let other = r#"{"name":"other","command":"/bin/true","args":[],"env":[]}"#;
    let (session, servers) = offered(&host, &[other]).await;
    assert_eq!(servers.as_array().expect("a list").len(), 2, "{servers}");
    assert_eq!(servers[0]["name"], "other");
    let own = serde_json::json!({
        "name": "hostler", "command": "/opt/hostler", "args": ["mcp"],
        "env": [
            { "name": "HOSTLER_STATE_DIR", "value": "/state" },
            { "name": "HOSTLER_SESSION", "value": session },
        ],
    });
    assert_eq!(servers[1], own);
    // A client's own of this name stays as it is.
    let mine = r#"{"name":"hostler","command":"/bin/mine","args":[],"env":[]}"#;
    let (_, servers) = offered(&host, &[mine]).await;
    assert_eq!(servers.as_array().expect("a list").len(), 1, "{servers}");
    assert_eq!(servers[0]["command"], "/bin/mine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_not_to_have_them_does_not() {
    let mut with = options();
    with.tools = tools();
    let mut spec = spec(&[]);
    spec.tools = false;
    let host = Host::with(spec, with);
    let (_, servers) = offered(&host, &[]).await;
    assert_eq!(servers, serde_json::json!([]));
}
