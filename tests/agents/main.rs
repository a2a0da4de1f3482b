//! Real agents through the host: what they do when all is well, and what is left of them after every way of ending.
//!
//! `tests/agents/setup` installs the agents; they talk to a stand-in for their model services. Without them this says so and tests
//! nothing, unless `HOSTLER_TEST_AGENTS=require`. `HOSTLER_TEST_AGENTS=all` tries every situation with every ending.
//!
//! As root, host and agents run as a user that nobody else is, so that the kernel tells by the user what is left, whatever it did to
//! its environment, and which files.

#[path = "../host/support.rs"]
#[allow(dead_code, unused_imports)]
mod support;

mod cells;
mod stage;
mod talk;

use cells::{Can, Cell, Ending, Situation};
use stage::Stage;

/// What is found set up and was to be, or nothing, which is said.
fn stage() -> Option<Stage> {
    let wanted = std::env::var("HOSTLER_TEST_AGENTS").unwrap_or_default();
    let stage = Stage::new();
    let required: &[&str] = match wanted.as_str() {
        "require" => &["claude", "sdk"],
        _ => &[],
    };
    for agent in required {
        assert!(
            stage.agents.contains_key(*agent)
                || stage.out_of_reach.iter().any(|name| name == agent),
            "{agent} is not set up: tests/agents/setup"
        );
    }
    if stage.agents.is_empty() {
        eprintln!("skipped: no agent is set up (tests/agents/setup)");
        return None;
    }
    let names: Vec<&str> = stage.agents.keys().map(String::as_str).collect();
    println!("agents: {}", names.join(", "));
    Some(stage)
}

#[test]
fn five_sessions_of_four_prompts_each() {
    let Some(stage) = stage() else { return };
    for agent in stage.agents.keys() {
        let host = stage.host();
        let before = stage.everybody();
        support::run(async {
            let began = std::time::Instant::now();
            // One after the other: some cannot make their own state in a new home twice at once.
            let mut talks = Vec::new();
            for _ in 0..5 {
                talks.push(stage.open(&host, agent, false).await);
            }
            let prompting = talks.iter().map(async |talk| {
                for _ in 0..4 {
                    let answer = talk.prompt("hello").await;
                    assert_eq!(
                        answer["result"]["stopReason"], "end_turn",
                        "{agent}: {answer}"
                    );
                }
            });
            futures_util::future::join_all(prompting).await;
            let prompted = began.elapsed();
            let memory = stage.memory(&before);
            let began = std::time::Instant::now();
            futures_util::future::join_all(talks.iter().map(async |talk| talk.close().await)).await;
            println!(
                "{agent}: 20 prompts in 5 sessions {prompted:.1?}, {memory} MiB, closed in {:.2?}",
                began.elapsed()
            );
        });
        stage.nothing_but(&before, agent);
        host.stop();
        stage.nothing_at_all(agent);
    }
}

#[test]
fn nothing_is_left_however_it_ends() {
    let Some(stage) = stage() else { return };
    let mut failed = Vec::new();
    for (agent, has) in &stage.agents {
        for cell in Cell::of(has) {
            let began = std::time::Instant::now();
            let tried =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cell.run(&stage, agent)));
            let took = began.elapsed();
            match tried {
                Ok(tree) => println!("{agent:9} {cell}: 0 left of {tree} processes, {took:.1?}"),
                Err(_) => {
                    println!("{agent:9} {cell}: FAILED, {took:.1?}");
                    failed.push(format!("{agent} {cell}"));
                    stage.sweep();
                }
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("; "));
}

/// The table says what it means to.
#[test]
fn the_table_holds_what_it_should() {
    let can = Can {
        shell: true,
        background: true,
        wrapped: true,
    };
    let all = Cell::every(can);
    for situation in Situation::ALL {
        assert!(
            all.iter().any(|cell| cell.situation == situation),
            "{situation:?}"
        );
    }
    for ending in Ending::ALL {
        assert!(all.iter().any(|cell| cell.ending == ending), "{ending:?}");
        assert!(
            Cell::chosen(can).iter().any(|cell| cell.ending == ending),
            "{ending:?} is tried always"
        );
    }
}
