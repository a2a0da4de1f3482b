//! What an agent asks the host for, through a conversation.

use super::support::*;

async fn answer(conversation: &hostler_agent::Conversation, what: &str) -> String {
    let turn = prompt(conversation, what).await;
    assert_eq!(stop_reason(&soon(what, turn.ended()).await), "end_turn");
    said(conversation, turn.id).await.concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_and_files_of_an_agent_are_the_sessions() {
    let host = Host::new(&[]);
    let dir = tempfile::tempdir().expect("a directory");
    let path = std::fs::canonicalize(dir.path()).expect("its path");
    let mut new = host.conversation();
    new.cwd = path.clone();
    let conversation = host.agents.open(new, by()).await.expect("a conversation");
    let ran = answer(&conversation, "run pwd; echo to-stderr >&2; exit 3").await;
    assert!(ran.starts_with("Some(3)"), "{ran}");
    assert!(ran.contains(&*path.to_string_lossy()), "{ran}");
    assert!(ran.contains("to-stderr"), "{ran}");
    let file = path.join("file");
    let write = format!("write {} some text", file.display());
    assert_eq!(answer(&conversation, &write).await, "written");
    assert_eq!(std::fs::read_to_string(&file).expect("it"), "some text");
    let read = format!("read {}", file.display());
    assert_eq!(answer(&conversation, &read).await, "some text");
    for outside in [
        "write /etc/hostler-was-here x".to_owned(),
        format!("read {}/../../etc/passwd", path.display()),
    ] {
        let refused = answer(&conversation, &outside).await;
        assert!(refused.starts_with("error"), "{outside}: {refused}");
    }
    // A command that detaches itself and is not waited for ends with the session.
    let kept = answer(&conversation, "run setsid sleep 1000 >/dev/null 2>&1 &").await;
    assert!(kept.starts_with("Some(0)"), "{kept}");
    host.end(&conversation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_method_under_a_known_name_is_the_clients() {
    assert!(hostler_agent::served::Served::serves("terminal/create"));
    assert!(!hostler_agent::served::Served::serves("terminal/resize"));
}
