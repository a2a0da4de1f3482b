//! A session with a long past, and what it costs to join it.

use std::io;

use serde_json::json;

use crate::agent::clock;
use crate::client::{Client, Protocol};
use crate::tokens::tell;

/// How many pieces each answer has.
const PIECES: usize = 20;

/// Makes a session by ACP with so many turns, and prints its name.
pub(crate) async fn make(address: &str, turns: usize) -> io::Result<()> {
    let mut client = Client::new(Protocol::Acp, address, "bench").await?;
    client.open().await?;
    for _ in 0..turns {
        client.prompt(&format!("say {PIECES}")).await?;
        client.ended().await?;
    }
    println!("session {}", client.session);
    Ok(())
}

/// From the request until the client has the snapshot: so many times, each by a new client. The first one is told apart.
pub(crate) async fn join(
    address: &str,
    chat: &str,
    turns: Option<u64>,
    rounds: usize,
    whole: bool,
) -> io::Result<()> {
    let mut began = clock();
    let mut client = Client::new(Protocol::Ahp, address, "bench").await?;
    println!("initialize_us {:.1}", (clock() - began) as f64 / 1000.0);
    if whole {
        // Somebody who has all.
        client.subscribe(chat, None).await?;
    }
    let mut all = Vec::new();
    for round in 0..rounds {
        let mut joining = Client::new(Protocol::Ahp, address, "bench").await?;
        let mut params = json!({"channel": chat});
        if let Some(turns) = turns {
            params["view"] = json!({"turns": turns});
        }
        began = clock();
        let id = joining.send("subscribe", params).await?;
        let text = joining.answered(id).await?;
        let took = clock() - began;
        if round == 0 {
            let answer: serde_json::Value = serde_json::from_slice(&text)?;
            let shown = answer["result"]["snapshot"]["state"]["turns"].as_array();
            let shown = shown.map_or(0, Vec::len);
            println!("first_us {:.1}", took as f64 / 1000.0);
            println!("turns {shown}");
            println!("bytes {}", text.len());
        }
        all.push(took);
    }
    tell("join", &mut all);
    Ok(())
}

/// What another session's clients see of it when clients join one with a long past, and want all of it.
pub(crate) async fn stall(address: &str, chat: &str, rounds: usize) -> io::Result<()> {
    let mut other = Client::new(Protocol::Ahp, address, "bench").await?;
    other.open().await?;
    other.prompt("flood 1").await?;
    other.update().await?;
    other.ended().await?;
    // That is longer than all of it takes.
    other.prompt("tick 60000 1000 0").await?;
    let (address, params) = (address.to_owned(), json!({"channel": chat}));
    let mut joins = tokio::spawn(async move {
        for _ in 0..rounds {
            let mut joining = Client::new(Protocol::Ahp, &address, "bench").await?;
            let id = joining.send("subscribe", params.clone()).await?;
            joining.answered(id).await?;
        }
        Ok::<_, io::Error>(())
    });
    let mut all = Vec::new();
    loop {
        tokio::select! {
            done = &mut joins => break done??,
            update = other.update() => all.push(update?),
        }
    }
    tell("token", &mut all);
    Ok(())
}
