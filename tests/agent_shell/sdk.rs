//! The client of the official SDK, unchanged.

use std::str::FromStr;
use std::sync::{Arc, Mutex};

use agent_client_protocol::schema::ProtocolVersion;
use agent_client_protocol::v1::ConnectionTo;
use agent_client_protocol::v1::schema::{
    CancelNotification, ContentBlock, InitializeRequest, NewSessionRequest, PromptRequest,
    SessionNotification, SessionUpdate, StopReason, TextContent, ToolCallStatus, ToolKind,
};
use agent_client_protocol::{AcpAgent, Agent};

#[tokio::test]
async fn it_prompts_and_cancels() {
    let mark = crate::lines::mark();
    let program = env!("CARGO_BIN_EXE_hostler");
    let command = format!("env HOSTLER_TEST_MARK={mark} {program} __agent-shell");
    let agent = AcpAgent::from_str(&command).expect("a command");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let updates = heard.clone();
    let (begun, running) = tokio::sync::oneshot::channel();
    let begun = Mutex::new(Some(begun));
    agent_client_protocol::Client
        .v1()
        .on_receive_notification(
            async move |notification: SessionNotification, _| {
                if let SessionUpdate::AgentMessageChunk(chunk) = &notification.update
                    && let ContentBlock::Text(text) = &chunk.content
                    && text.text == "begun\n"
                    && let Some(begun) = begun.lock().expect("whole").take()
                {
                    let _ = begun.send(());
                }
                updates.lock().expect("whole").push(notification.update);
                Ok(())
            },
            agent_client_protocol::on_receive_notification!(),
        )
        .connect_with(agent, |connection: ConnectionTo<Agent>| async move {
            let request = InitializeRequest::new(ProtocolVersion::V1);
            let answer = connection.send_request(request).block_task().await?;
            assert_eq!(answer.protocol_version, ProtocolVersion::V1);
            assert!(!answer.agent_capabilities.load_session);
            let request = NewSessionRequest::new("/tmp");
            let session = connection.send_request(request).block_task().await?;
            let prompt = |text: &str| {
                let text = ContentBlock::Text(TextContent::new(text));
                PromptRequest::new(session.session_id.clone(), vec![text])
            };
            let request = prompt("echo from the shell");
            let answer = connection.send_request(request).block_task().await?;
            assert_eq!(answer.stop_reason, StopReason::EndTurn);
            let turn = connection.send_request(prompt("echo begun; sleep 1000"));
            let turn = turn.block_task();
            let cancel = async {
                running.await.expect("it runs");
                connection.send_notification(CancelNotification::new(session.session_id.clone()))
            };
            let (answer, cancelled) = futures_util::future::join(turn, cancel).await;
            cancelled?;
            assert_eq!(answer?.stop_reason, StopReason::Cancelled);
            Ok(())
        })
        .await
        .expect("a conversation");
    let heard = std::mem::take(&mut *heard.lock().expect("whole"));
    let said = heard.iter().any(|update| {
        matches!(update, SessionUpdate::AgentMessageChunk(chunk)
            if matches!(&chunk.content, ContentBlock::Text(text) if text.text == "from the shell\n"))
    });
    assert!(said, "{heard:?}");
    let shown = heard.iter().any(
        |update| matches!(update, SessionUpdate::ToolCall(call) if call.kind == ToolKind::Execute),
    );
    assert!(shown, "{heard:?}");
    let done = heard.iter().any(|update| {
        matches!(update, SessionUpdate::ToolCallUpdate(call)
            if call.fields.status == Some(ToolCallStatus::Completed))
    });
    assert!(done, "{heard:?}");
    let start = std::time::Instant::now();
    while crate::processes::find(&mark)
        .iter()
        .any(crate::processes::Found::lives)
    {
        assert!(start.elapsed() < std::time::Duration::from_secs(20));
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}
