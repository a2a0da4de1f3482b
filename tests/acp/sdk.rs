//! The clients of the official Rust SDK, unchanged, over WebSocket and over HTTP.

use std::sync::{Arc, Mutex};

use agent_client_protocol::Agent;
use agent_client_protocol::schema::ProtocolVersion;
use agent_client_protocol::v1::ConnectionTo;
use agent_client_protocol::v1::schema::{
    ContentBlock, InitializeRequest, LoadSessionRequest, NewSessionRequest, PromptRequest,
    SessionNotification, SessionUpdate, StopReason, TextContent,
};
use agent_client_protocol_http::HttpClient;

use crate::support::Place;

async fn talk(scheme: &str) {
    let place = Place::new();
    let host = place.host();
    let (tcp, token) = (&host.client.tcp, &host.client.token);
    let url = format!("{scheme}://{tcp}/acp?token={token}");
    let heard = Arc::new(Mutex::new(String::new()));
    let mut session = None;
    // The second one loads what the first one made.
    for turn in 0..2 {
        let transport = HttpClient::builder_with_endpoint(&url)
            .configure_http(|http| http.no_proxy())
            .build()
            .expect("a client");
        let (updates, before) = (heard.clone(), session.clone());
        updates.lock().expect("whole").clear();
        let made = agent_client_protocol::Client
            .v1()
            .on_receive_notification(
                async move |notification: SessionNotification, _| {
                    if let SessionUpdate::AgentMessageChunk(chunk) = &notification.update
                        && let ContentBlock::Text(text) = &chunk.content
                    {
                        updates.lock().expect("whole").push_str(&text.text);
                    }
                    Ok(())
                },
                agent_client_protocol::on_receive_notification!(),
            )
            .connect_with(transport, |connection: ConnectionTo<Agent>| async move {
                let request = InitializeRequest::new(ProtocolVersion::V1);
                let answer = connection.send_request(request).block_task().await?;
                assert!(answer.agent_capabilities.load_session);
                let session = match before {
                    Some(session) => {
                        let request = LoadSessionRequest::new(
                            agent_client_protocol::v1::schema::SessionId::clone(&session),
                            "/tmp",
                        );
                        connection.send_request(request).block_task().await?;
                        session
                    }
                    None => {
                        let request = NewSessionRequest::new("/tmp");
                        connection
                            .send_request(request)
                            .block_task()
                            .await?
                            .session_id
                    }
                };
                let text = ContentBlock::Text(TextContent::new(format!("echo turn {turn}")));
                let request = PromptRequest::new(session.clone(), vec![text]);
                let answer = connection.send_request(request).block_task().await?;
                assert_eq!(answer.stop_reason, StopReason::EndTurn);
                Ok(session)
            })
            .await
            .expect("a conversation");
        session = Some(made);
    }
    let heard = heard.lock().expect("whole");
    let first = heard.find("turn 0\n");
    let second = heard.find("turn 1\n");
    assert!(first.is_some() && first < second, "{heard}");
    assert_eq!(heard.matches("turn 0\n").count(), 1, "{heard}");
}

#[tokio::test]
async fn over_a_websocket() {
    talk("ws").await;
}

#[tokio::test]
async fn over_http() {
    talk("http").await;
}
