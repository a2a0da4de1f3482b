//! `terminal/*`.

use std::time::Duration;

use hostler_agent::RpcError;
use serde_json::{Value, json};

use crate::Asking;
use crate::support::until;

#[tokio::test]
async fn both_outputs_come_together_in_order_with_the_exit() {
    let asking = Asking::new().await;
    let params = json!({
        "sessionId": "s", "command": "sh",
        "args": ["-c", "echo out; echo err >&2; pwd; echo $A; exit 7"],
        "env": [{"name": "A", "value": "is set"}], "cwd": asking.root.path(),
    });
    let created = asking.ask("terminal/create", params).await.unwrap();
    let id = created["terminalId"].as_str().unwrap().to_owned();
    let exit = asking.of("wait_for_exit", &id).await.unwrap();
    assert_eq!(exit, json!({"exitCode": 7}));
    let output = asking.of("output", &id).await.unwrap();
    let there = asking.root.path().display();
    assert_eq!(output["output"], format!("out\nerr\n{there}\nis set\n"));
    assert_eq!(output["truncated"], false);
    assert_eq!(output["exitStatus"], json!({"exitCode": 7}));
    asking.of("release", &id).await.unwrap();
    for method in ["output", "wait_for_exit", "kill", "release"] {
        let refused = asking.of(method, &id).await.unwrap_err();
        assert_eq!(refused.code, RpcError::INVALID_PARAMS, "{method}");
    }
    asking.close().await;
}

#[tokio::test]
async fn a_line_is_for_a_shell_and_what_cannot_be_is_refused() {
    let asking = Asking::new().await;
    let line = json!({"sessionId": "s", "command": "echo a | tr a b"});
    let created = asking.ask("terminal/create", line).await.unwrap();
    let id = created["terminalId"].as_str().unwrap();
    asking.of("wait_for_exit", id).await.unwrap();
    assert_eq!(asking.of("output", id).await.unwrap()["output"], "b\n");
    for wrong in [
        json!({"sessionId": "s", "command": ""}),
        json!({"sessionId": "s", "command": "ls", "cwd": "relative"}),
        json!({"sessionId": "s", "command": "ls", "cwd": "/is/not/there"}),
        json!({"sessionId": "s", "command": "ls", "env": [{"name": "", "value": ""}]}),
        json!({"sessionId": "s", "command": "ls", "env": [{"name": "A=B", "value": ""}]}),
        json!({"sessionId": "s", "command": "ls", "env": [{"name": "A", "value": "a\0b"}]}),
    ] {
        let refused = asking.ask("terminal/create", wrong.clone()).await;
        assert_eq!(
            refused.unwrap_err().code,
            RpcError::INVALID_PARAMS,
            "{wrong}"
        );
    }
    let none = json!({"sessionId": "s", "command": "there-is-no-such-program"});
    let refused = asking.ask("terminal/create", none).await.unwrap_err();
    assert!(
        refused.message.contains("there-is-no-such-program"),
        "{refused}"
    );
    asking.close().await;
}

#[tokio::test]
async fn output_is_cut_from_its_beginning_between_characters() {
    let asking = Asking::new().await;
    // Characters of 3 bytes: whatever the limit, whole ones only.
    for limit in [0_u64, 1, 2, 3, 4, 5, 10, 300, 301, 302] {
        let params = json!({
            "sessionId": "s", "command": "sh", "outputByteLimit": limit,
            "args": ["-c", "i=0; while [ $i -lt 100 ]; do printf €; i=$((i+1)); done"],
        });
        let created = asking.ask("terminal/create", params).await.unwrap();
        let id = created["terminalId"].as_str().unwrap();
        asking.of("wait_for_exit", id).await.unwrap();
        let output = asking.of("output", id).await.unwrap();
        let whole = (limit / 3).min(100) as usize;
        assert_eq!(output["output"], "€".repeat(whole), "{limit}");
        assert_eq!(output["truncated"], whole < 100, "{limit}");
    }
    // What is not UTF-8 takes more room when it is shown, and stays within the limit.
    let params = json!({
        "sessionId": "s", "command": "sh", "outputByteLimit": 100,
        "args": ["-c", "head -c 90 /dev/zero | tr '\\0' '\\377'; echo"],
    });
    let created = asking.ask("terminal/create", params).await.unwrap();
    let id = created["terminalId"].as_str().unwrap();
    asking.of("wait_for_exit", id).await.unwrap();
    let output = asking.of("output", id).await.unwrap();
    let text = output["output"].as_str().unwrap();
    assert!(text.len() <= 100 && text.ends_with("\u{FFFD}\n"), "{text}");
    assert_eq!(output["truncated"], true);
    asking.close().await;
}

#[tokio::test]
async fn a_flood_is_kept_to_its_end() {
    let asking = Asking::new().await;
    let params = json!({
        "sessionId": "s", "command": "sh", "outputByteLimit": 100_000,
        "args": ["-c", "seq 1 2000000"],
    });
    let created = asking.ask("terminal/create", params).await.unwrap();
    let id = created["terminalId"].as_str().unwrap();
    asking.of("wait_for_exit", id).await.unwrap();
    let output = asking.of("output", id).await.unwrap();
    let text = output["output"].as_str().unwrap();
    assert_eq!((text.len(), &output["truncated"]), (100_000, &json!(true)));
    assert!(text.ends_with("1999999\n2000000\n"));
    asking.close().await;
}

#[tokio::test]
async fn waiting_holds_nothing_up_and_a_kill_leaves_the_terminal() {
    let asking = Asking::new().await;
    let id = asking.shell("echo begun; exec sleep 1000").await;
    let served = asking.served.clone();
    let waiting = tokio::spawn({
        let params = json!({"sessionId": "s", "terminalId": id});
        async move { crate::ask(&served, "terminal/wait_for_exit", params).await }
    });
    let mut output = Value::Null;
    while output["output"] != "begun\n" {
        output = asking.of("output", &id).await.unwrap();
        assert_eq!(output.get("exitStatus"), None);
    }
    asking.of("kill", &id).await.unwrap();
    let exit = json!({"signal": "SIGTERM"});
    assert_eq!(waiting.await.unwrap().unwrap(), exit);
    let output = asking.of("output", &id).await.unwrap();
    assert_eq!(
        (&output["output"], &output["exitStatus"]),
        (&json!("begun\n"), &exit)
    );
    // Again, of one that has ended.
    asking.of("kill", &id).await.unwrap();
    asking.of("release", &id).await.unwrap();
    asking.close().await;
}

#[tokio::test]
async fn a_release_ends_what_is_under_it_and_tells_who_waits() {
    let asking = Asking::new().await;
    let id = asking
        .shell("trap '' TERM; setsid sh -c 'trap \"\" TERM; while :; do sleep 1000; done' & echo; while :; do sleep 1000; done")
        .await;
    until("both run", || asking.stage.living().len() >= 4).await;
    let served = asking.served.clone();
    let params = json!({"sessionId": "s", "terminalId": id});
    let waiting =
        tokio::spawn(async move { crate::ask(&served, "terminal/wait_for_exit", params).await });
    // It runs until it waits.
    tokio::task::yield_now().await;
    asking.of("release", &id).await.unwrap();
    assert_eq!(
        waiting.await.unwrap().unwrap(),
        json!({"signal": "SIGKILL"})
    );
    asking.stage.await_none("all under the terminal").await;
    asking.close().await;
}

#[tokio::test]
async fn what_a_command_leaves_behind_is_the_sessions() {
    let asking = Asking::new().await;
    let id = asking.shell("setsid sleep 1000 & echo left").await;
    // The exit comes though the pipe is held open.
    let exit = asking.of("wait_for_exit", &id).await.unwrap();
    assert_eq!(exit, json!({"exitCode": 0}));
    assert_eq!(asking.of("output", &id).await.unwrap()["output"], "left\n");
    asking.of("release", &id).await.unwrap();
    assert_eq!(asking.stage.living().len(), 1);
    asking.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_terminals_at_once() {
    let asking = Asking::new().await;
    let mut tasks = Vec::new();
    for number in 0..100 {
        let served = asking.served.clone();
        tasks.push(tokio::spawn(async move {
            let script = format!("echo {number}; exec sleep 1000");
            let params = json!({"sessionId": "s", "command": "sh", "args": ["-c", script]});
            let created = crate::ask(&served, "terminal/create", params)
                .await
                .unwrap();
            let id = created["terminalId"].as_str().unwrap().to_owned();
            let named = json!({"sessionId": "s", "terminalId": id});
            loop {
                let output = crate::ask(&served, "terminal/output", named.clone());
                if output.await.unwrap()["output"] == format!("{number}\n") {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            (number, named)
        }));
    }
    let mut terminals = Vec::new();
    for task in tasks {
        terminals.push(task.await.unwrap());
    }
    assert_eq!(asking.stage.living().len(), 100);
    // Half are released, the others are left to the session.
    let mut tasks = Vec::new();
    for (number, named) in terminals {
        let served = asking.served.clone();
        if number % 2 == 0 {
            tasks.push(tokio::spawn(async move {
                crate::ask(&served, "terminal/release", named)
                    .await
                    .unwrap();
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(asking.stage.living().len(), 50);
    asking.close().await;
}

#[tokio::test]
async fn output_can_be_followed_and_nothing_is_missed_or_doubled() {
    let asking = Asking::new().await;
    let id = asking
        .shell("for i in $(seq 1 20000); do echo line $i; done; printf '\\303'; exit 3")
        .await;
    let (mut text, mut next) = (String::new(), 0);
    let exit = loop {
        let meta = json!({"hostler": {"after": next}});
        let params = json!({"sessionId": "s", "terminalId": id, "_meta": meta});
        let output = asking.ask("terminal/output", params).await.unwrap();
        let place = &output["_meta"]["hostler"];
        assert_eq!(place["skipped"], 0);
        next = place["next"].as_u64().unwrap();
        let more = output["output"].as_str().unwrap();
        if more.is_empty() && output["exitStatus"].is_object() {
            break output["exitStatus"].clone();
        }
        text += more;
    };
    let mut expected: String = (1..=20_000).map(|i| format!("line {i}\n")).collect();
    expected.push('\u{FFFD}');
    assert_eq!(text, expected);
    assert_eq!(exit, json!({"exitCode": 3}));
    asking.close().await;
}

#[tokio::test]
async fn a_terminal_is_read_until_it_is_released_though_the_session_forgets_it() {
    let asking = Asking::new().await;
    let id = asking.shell("echo kept").await;
    asking.of("wait_for_exit", &id).await.unwrap();
    let most = 110;
    for _ in 0..most {
        let other = asking.shell("true").await;
        asking.of("wait_for_exit", &other).await.unwrap();
        asking.of("release", &other).await.unwrap();
    }
    assert!(
        asking.stage.sessions.process(&id).is_err(),
        "it was not forgotten"
    );
    let output = asking.of("output", &id).await.unwrap();
    assert_eq!(output["output"], "kept\n");
    asking.close().await;
}

#[tokio::test]
async fn other_processes_of_the_session_are_no_terminals() {
    let asking = Asking::new().await;
    let options = crate::support::shell("exec sleep 1000").background();
    let other = crate::support::exec(&asking.session, options).await;
    for id in [other.id().as_str(), "", "nothing"] {
        let refused = asking.of("kill", id).await.unwrap_err();
        assert_eq!(refused.code, RpcError::INVALID_PARAMS);
    }
    assert_eq!(asking.stage.living().len(), 1);
    asking.close().await;
}

#[tokio::test]
async fn dropped_requests_and_a_close_while_waiting_leave_nothing() {
    let asking = Asking::new().await;
    for delay in 0..20 {
        let create = asking.shell("exec sleep 1000");
        let _ = tokio::time::timeout(Duration::from_micros(delay * 150), create).await;
    }
    let id = asking.shell("exec sleep 1000").await;
    let served = asking.served.clone();
    let params = json!({"sessionId": "s", "terminalId": id});
    let waiting =
        tokio::spawn(async move { crate::ask(&served, "terminal/wait_for_exit", params).await });
    tokio::task::yield_now().await;
    asking.close().await;
    assert!(waiting.await.unwrap().is_ok());
}
