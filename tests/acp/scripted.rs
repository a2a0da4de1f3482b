//! What passes through between clients and an agent, and whose word counts, with an agent that does what it is told.

use serde_json::{Value, json};

use crate::peer::{Peer, of_kind, prompt, said};
use crate::stdio::{Editor, hostler};
use crate::support::{Host, Place, run};

/// A host whose default agent is the scripted one.
fn host(place: &Place, more: &str) -> Host {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/acp/scripted.py");
    let config = place.dir.path().join("config.toml");
    let text = format!(
        "default_agent = 'scripted'\n[agents.scripted]\ncommand = ['python3', '{script}']\ncancel_grace = '500ms'\n{more}\n"
    );
    std::fs::write(&config, text).expect("written");
    place.host_with(&["--config", config.to_str().expect("text")])
}

/// A client that can show forms, or one that cannot.
async fn client(host: &Host, forms: bool) -> Peer {
    let mut peer = Peer::silent(&host.client).await;
    let capabilities = match forms {
        true => json!({"elicitation": {"form": {}}}),
        false => json!({}),
    };
    let params = json!({"protocolVersion": 1, "clientCapabilities": capabilities});
    let answer = peer.ask("initialize", params).await;
    assert_eq!(answer["result"]["protocolVersion"], 1, "{answer}");
    peer
}

fn of_method<'v>(heard: &'v [Value], method: &str) -> Vec<&'v Value> {
    heard.iter().filter(|one| one["method"] == method).collect()
}

async fn reply(peer: &mut Peer, id: &Value, result: Value) {
    let text = json!({"jsonrpc": "2.0", "id": id, "result": result});
    peer.say(text.to_string()).await;
}

#[test]
fn of_two_clients_with_forms_the_first_answer_wins_and_the_others_question_is_taken_back() {
    run(async {
        let place = Place::new();
        let host = host(&place, "");
        let mut first = client(&host, true).await;
        let opened = first
            .ask("session/new", json!({"cwd": "/tmp", "mcpServers": []}))
            .await;
        let told = &opened["result"]["_meta"]["capabilities"];
        assert_eq!(told["elicitation"], json!({"form": {}}), "{opened}");
        let session = opened["result"]["sessionId"].as_str().expect("a session");
        let mut second = client(&host, true).await;
        let mut plain = client(&host, false).await;
        for peer in [&mut second, &mut plain] {
            assert!(peer.load(session).await["result"].is_object());
        }
        let turn = first
            .send("session/prompt", prompt(session, "elicit"))
            .await;
        let mut ids = Vec::new();
        for peer in [&mut first, &mut second] {
            peer.until(|heard| !of_method(heard, "elicitation/create").is_empty())
                .await;
            let asked = of_method(&peer.heard, "elicitation/create")[0].clone();
            assert_eq!(asked["params"]["sessionId"], *session);
            assert_eq!(asked["params"]["message"], "Which?");
            ids.push(asked["id"].clone());
        }
        let accepted = json!({"action": "accept", "content": {"which": "second"}});
        reply(&mut second, &ids[1], accepted.clone()).await;
        // The other one need not answer any more, and what it says all the same counts for nothing.
        first
            .until(|heard| !of_method(heard, "$/cancel_request").is_empty())
            .await;
        let taken_back = of_method(&first.heard, "$/cancel_request")[0].clone();
        assert_eq!(taken_back["params"]["requestId"], ids[0]);
        reply(&mut first, &ids[0], json!({"action": "decline"})).await;
        let ended = first.answer(&turn).await;
        assert_eq!(ended["result"]["stopReason"], "end_turn", "{ended}");
        let heard: Value = serde_json::from_str(&first.said()).expect("JSON");
        assert_eq!(heard, accepted);
        // Who answered is not told again, and who cannot show it was not asked.
        let all = second.said();
        second.until(|heard| said(heard).len() >= all.len()).await;
        assert!(of_method(&second.heard, "$/cancel_request").is_empty());
        first.prompt(session, "say the end").await;
        plain.until(|heard| said(heard).contains("the end")).await;
        assert!(of_method(&plain.heard, "elicitation/create").is_empty());
        assert!(of_method(&plain.heard, "$/cancel_request").is_empty());
    });
}

#[test]
fn a_form_that_nobody_can_show_is_not_waited_for() {
    run(async {
        let place = Place::new();
        let host = host(&place, "permission_timeout = '200ms'");
        let mut peer = client(&host, false).await;
        let session = peer.open().await;
        let ended = peer.prompt(&session, "elicit").await;
        assert_eq!(ended["result"]["stopReason"], "end_turn", "{ended}");
        assert_eq!(peer.said(), r#"{"action": "cancel"}"#);
        // A permission is another matter: everybody can give it, and is given the time for it.
        let turn = peer
            .send("session/prompt", prompt(&session, "permission"))
            .await;
        let asked = "session/request_permission";
        peer.until(|heard| !of_method(heard, asked).is_empty())
            .await;
        let id = of_method(&peer.heard, asked)[0]["id"].clone();
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        let outcome = json!({"outcome": {"outcome": "selected", "optionId": "go"}});
        reply(&mut peer, &id, outcome.clone()).await;
        peer.answer(&turn).await;
        assert!(peer.said().ends_with(&python(&outcome)), "{}", peer.said());
    });
}

/// As the agent's language writes it.
fn python(value: &Value) -> String {
    value
        .to_string()
        .replace("\":", "\": ")
        .replace(",\"", ", \"")
}

#[test]
fn a_question_that_waits_for_somebody_waits_on_for_who_comes() {
    run(async {
        let place = Place::new();
        let host = host(&place, "permission_timeout = '1500ms'");
        let mut first = client(&host, false).await;
        let session = first.open().await;
        first
            .send("session/prompt", prompt(&session, "permission"))
            .await;
        let asked = "session/request_permission";
        first
            .until(|heard| !of_method(heard, asked).is_empty())
            .await;
        drop(first);
        let mut second = client(&host, false).await;
        assert!(second.load(&session).await["result"].is_object());
        second
            .until(|heard| !of_method(heard, asked).is_empty())
            .await;
        let id = of_method(&second.heard, asked)[0]["id"].clone();
        tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
        let outcome = json!({"outcome": {"outcome": "selected", "optionId": "stay"}});
        reply(&mut second, &id, outcome.clone()).await;
        second.until(|heard| said(heard).contains("selected")).await;
        assert_eq!(second.said(), python(&outcome));
    });
}

#[test]
fn modes_and_options_reach_the_agent_and_all_clients_see_them() {
    run(async {
        let place = Place::new();
        let host = host(&place, "");
        let mut first = client(&host, false).await;
        let session = first.open().await;
        let mut second = client(&host, false).await;
        let loaded = second.load(&session).await;
        assert_eq!(
            loaded["result"]["modes"]["currentModeId"], "ask",
            "{loaded}"
        );
        let params = json!({"sessionId": session, "modeId": "code", "_own": [1]});
        let answer = second.ask("session/set_mode", params).await;
        // Under the agent's own name for the session, and with all that the client said.
        let told = json!({"sessionId": "its-own", "modeId": "code", "_own": [1]});
        assert_eq!(answer["result"]["_meta"]["told"], told, "{answer}");
        let params = json!({"sessionId": session, "configId": "model", "value": "large"});
        let answer = first.ask("session/set_config_option", params).await;
        let options = &answer["result"]["configOptions"];
        assert_eq!(options[0]["currentValue"], "large", "{answer}");
        for peer in [&mut first, &mut second] {
            peer.until(|heard| !of_kind(heard, "config_option_update").is_empty())
                .await;
            let mode = of_kind(&peer.heard, "current_mode_update");
            assert_eq!(mode[0]["currentModeId"], "code");
            let option = of_kind(&peer.heard, "config_option_update");
            assert_eq!(option[0]["configOptions"][0]["currentValue"], "large");
            let of = |one: &Value| one["params"]["sessionId"] == *session;
            assert!(of_method(&peer.heard, "session/update").into_iter().all(of));
        }
    });
}

#[test]
fn a_request_that_is_taken_back_is_taken_back_from_the_agent() {
    run(async {
        let place = Place::new();
        let host = host(&place, "");
        let mut peer = client(&host, false).await;
        let session = peer.open().await;
        let id = peer.send("_slow", json!({"sessionId": session})).await;
        peer.until(|heard| said(heard).contains("it is slow")).await;
        peer.tell("$/cancel_request", json!({"requestId": id}))
            .await;
        let answer = peer.answer(&id).await;
        let error = json!({"code": -32800, "message": "stopped by the agent itself"});
        assert_eq!(answer["error"], error);
        peer.until(|heard| said(heard).contains("taken back")).await;
        // An agent that does not answer that either is not waited for.
        let id = peer.send("_deaf", json!({"sessionId": session})).await;
        peer.until(|heard| said(heard).contains("it is deaf")).await;
        peer.tell("$/cancel_request", json!({"requestId": id}))
            .await;
        assert_eq!(peer.answer(&id).await["error"]["code"], -32800);
        // Nothing of all that is in the way of anything else.
        let ended = peer.prompt(&session, "say well").await;
        assert_eq!(ended["result"]["stopReason"], "end_turn", "{ended}");
    });
}

#[test]
fn a_prompt_that_is_taken_back_cancels_no_other_clients_turn() {
    run(async {
        let place = Place::new();
        let host = host(&place, "");
        let mut first = client(&host, false).await;
        let session = first.open().await;
        let mut second = client(&host, false).await;
        assert!(second.load(&session).await["result"].is_object());
        let turn = first
            .send("session/prompt", prompt(&session, "permission"))
            .await;
        let asked = "session/request_permission";
        first
            .until(|heard| !of_method(heard, asked).is_empty())
            .await;
        let id = second
            .send("session/prompt", prompt(&session, "say never"))
            .await;
        second
            .tell("$/cancel_request", json!({"requestId": id}))
            .await;
        let ended = second.answer(&id).await;
        assert_eq!(ended["result"]["stopReason"], "cancelled", "{ended}");
        let id = of_method(&first.heard, asked)[0]["id"].clone();
        let outcome = json!({"outcome": {"outcome": "selected", "optionId": "go"}});
        reply(&mut first, &id, outcome).await;
        let ended = first.answer(&turn).await;
        assert_eq!(ended["result"]["stopReason"], "end_turn", "{ended}");
        assert!(!first.said().contains("never"));
    });
}

#[test]
fn logging_in_is_the_agents_affair() {
    run(async {
        let place = Place::new();
        let login = place.dir.path().join("login");
        let host = host(
            &place,
            &format!("env = {{ SCRIPTED_LOGIN = '{}' }}", login.display()),
        );
        let mut peer = client(&host, false).await;
        let new = json!({"cwd": "/tmp", "mcpServers": []});
        let refused = peer.ask("session/new", new.clone()).await;
        assert_eq!(refused["error"]["code"], -32000, "{refused}");
        // Before there is a session.
        let refused = peer.ask("authenticate", json!({"methodId": "bad"})).await;
        assert_eq!(refused["error"]["message"], "that is not the word");
        let taken = peer.ask("authenticate", json!({"methodId": "good"})).await;
        assert_eq!(
            taken["result"]["_meta"]["told"],
            json!({"methodId": "good"})
        );
        let sessions = host.client.get("/v1/sessions").await.expect(200);
        let open = sessions.as_array().expect("a list").iter();
        assert_eq!(
            open.filter(|one| one["state"] != "closed").count(),
            0,
            "{sessions}"
        );
        // And of agents that are up: those of all the client's sessions.
        for _ in 0..2 {
            let opened = peer.ask("session/new", new.clone()).await;
            assert!(opened["result"].is_object(), "{opened}");
        }
        let taken = peer
            .ask(
                "authenticate",
                json!({"methodId": "good", "_meta": {"n": 1}}),
            )
            .await;
        let told = json!({"methodId": "good", "_meta": {"n": 1}});
        assert_eq!(taken["result"]["_meta"]["told"], told, "{taken}");
        let refused = peer.ask("authenticate", json!({"methodId": "bad"})).await;
        assert_eq!(refused["error"]["code"], -32000, "{refused}");
        assert_eq!(refused["error"]["data"]["told"], json!({"methodId": "bad"}));
    });
}

#[test]
fn an_editor_joins_a_conversation_that_is_there() {
    let place = Place::new();
    let host = host(&place, "");
    let mut session = String::new();
    let mut first = None;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut peer = client(&host, false).await;
        session = peer.open().await;
        peer.prompt(&session, "say before it came;").await;
        first = Some(peer);
    });
    let mut first = first.expect("a client");
    let mut editor = Editor::start(hostler(&place, &["acp", "--session", &session]));
    // What the editor takes for a new one is that conversation, with its modes; what was said follows.
    assert_eq!(editor.open(), session);
    editor.until(|heard| said(heard).contains("before it came;"));
    let answer = editor.ask("session/prompt", prompt(&session, "say and after;"));
    assert_eq!(answer["result"]["stopReason"], "end_turn", "{answer}");
    assert_eq!(said(&editor.heard), "before it came;and after;");
    runtime.block_on(async {
        first
            .until(|heard| said(heard).contains("and after;"))
            .await;
    });
    editor.leave();
    // It was not the editor's to close.
    runtime.block_on(async {
        let path = format!("/v1/sessions/{session}");
        let shown = host.client.get(&path).await.expect(200);
        assert_ne!(shown["state"], "closed", "{shown}");
        let ended = first.prompt(&session, "say it goes on").await;
        assert_eq!(ended["result"]["stopReason"], "end_turn", "{ended}");
    });
}
