//! Runs: made once for each request, shown with their sessions, ended, and there in the next host.

use std::sync::{Arc, Mutex};

use ahp_types::commands::ReconnectResult;
use ahp_types::state::{AutomationOperation, AutomationRunLifecycle};
use rustix::process::Signal;
use serde_json::json;

use super::{AUTOMATIONS, cancel, definition, fresh, peer, status, uri};
use crate::mirror::Mirror;
use crate::peer::{Peer, ROOT};
use crate::support::{self, Place, run};

#[test]
fn a_message_becomes_an_automation_that_is_run_once_for_each_request_and_shows_its_sessions() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut one = peer(&host.client, "one").await;
        let mut two = peer(&host.client, "two").await;
        let gate = place.dir.path().join("gate");
        // What looks like a part of a flow is none.
        let text = format!(
            "until test -e {}; do sleep 0.05; done; echo '${{agent}} \"$job.x\"'",
            gate.display()
        );
        let mut wanted = definition(&text);
        wanted["_meta"] = json!({"theirs": [1, 2]});
        one.make("say", wanted.clone()).await;
        two.until("it is shown", |peer| peer.entry("say").is_some())
            .await;
        let entry = one.entry("say").expect("it is there");
        wanted["triggers"][0]["misfirePolicy"] = json!("runOnce");
        assert_eq!(
            serde_json::to_value(&entry.definition).expect("JSON"),
            wanted
        );
        let shown = host.client.get("/v1/schedules/say").await.expect(200);
        assert_eq!(shown["zone"], "Europe/Berlin");

        // Both ask for the same, at once.
        let (first, second) = tokio::join!(one.ask_run("say", "r1"), two.ask_run("say", "r1"));
        let run = first.expect("a run");
        assert_eq!(second.expect("the run"), run);
        one.follow(&run).await;
        two.follow(&run).await;
        // Its own, and that of its agent, which is the one to open.
        let both = |peer: &Peer| {
            let run = peer.run_of(&run);
            run.sessions.len() == 2 && run.primary_session.as_ref() == run.sessions.last()
        };
        one.until("its sessions are shown", both).await;
        two.until("its sessions are shown", both).await;
        let state = one.until_is(&run, "running").await;
        assert_eq!(state.automation, uri("say"));
        let primary = state.primary_session.clone().expect("a session to open");
        one.follow(&primary).await;
        let session = one.session(&primary);
        assert_eq!(session.provider, "shell");
        let origin = json!({"kind": "automation", "automation": uri("say"), "run": run});
        assert_eq!(serde_json::to_value(&session.origin).expect("JSON"), origin);
        let listed = one
            .ask("listSessions", json!({"channel": ROOT}))
            .await
            .expect("sessions");
        for session in &state.sessions {
            let mut all = listed["items"].as_array().expect("a list").iter();
            let listed = all.find(|one| one["resource"] == **session);
            assert_eq!(listed.expect("it is listed")["origin"], origin);
        }
        let entry = one.entry("say").expect("it is there");
        assert_eq!(entry.runs.len(), 1);
        assert_eq!(entry.runs[0].session_count, 2);
        // One at a time, as its schedule says.
        assert!(!entry.operations.contains(&AutomationOperation::Run));
        let (code, message) = two.ask_run("say", "r2").await.expect_err("it runs");
        assert_eq!(code, -32011);
        assert!(message.contains("has not ended"), "{message}");
        assert_eq!(two.ask_run("say", "r1").await, Ok(run.clone()));

        std::fs::write(&gate, "").expect("written");
        for peer in [&mut one, &mut two] {
            let state = peer.until_is(&run, "completed").await;
            assert!(state.sessions.is_empty() && state.primary_session.is_none());
            peer.until_newest("say", "completed").await;
        }
        assert!(place.living().is_empty());
        let job = run.rsplit('/').next().expect("an id");
        let shown = host
            .client
            .get(&format!("/v1/jobs/{job}"))
            .await
            .expect(200);
        let said = shown["outputs"]["text"].as_str().expect("a text");
        assert_eq!(said, "${agent} \"$job.x\"\n");
        assert_eq!(one.ask_run("say", "r1").await, Ok(run.clone()));
        assert_eq!(one.entry("say").expect("it is there").runs.len(), 1);
        one.settle().await;
        two.settle().await;
        for channel in [AUTOMATIONS, &run] {
            assert_eq!(one.state(channel), two.state(channel));
            assert_eq!(one.state(channel), fresh(&host.client, channel).await);
        }
    });
}

#[test]
fn a_run_that_fails_says_why_and_one_that_is_cancelled_leaves_nothing() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut one = peer(&host.client, "one").await;
        let mut two = peer(&host.client, "two").await;
        let gone = place.dir.path().join("work");
        std::fs::create_dir(&gone).expect("a directory");
        let mut there = definition("true");
        there["session"]["workingDirectories"] = json!([format!("file://{}", gone.display())]);
        one.make("fails", there).await;
        let kept = format!(
            "export HOSTLER_MARK={}; setsid sh -c 'trap \"\" TERM; sleep 1000' & sleep 1000",
            place.mark
        );
        one.make("long", definition(&kept)).await;
        let address = Arc::new(Mutex::new(host.client.clone()));
        let mut mirror = Mirror::new();
        mirror.add("host", &address).await;

        let run = one.begin_run("long", "r").await;
        assert!(mirror.follow("host", &run).await);
        two.follow(&run).await;
        support::wait_until("it runs", || place.living().len() >= 3);
        two.dispatch(&run, cancel()).await;
        for peer in [&mut one, &mut two] {
            let state = peer.until_is(&run, "cancelled").await;
            assert!(state.sessions.is_empty(), "{state:?}");
        }
        assert!(place.living().is_empty(), "{:?}", place.living());
        one.until_newest("long", "cancelled").await;
        // What has ended cannot be cancelled.
        let seq = one.dispatch(&run, cancel()).await;
        assert!(one.refusal(seq).await.contains("has ended"));
        one.settle().await;
        mirror.until("host", &run, &one.state(&run)).await;
        mirror.end().await;

        std::fs::remove_dir(&gone).expect("removed");
        let (_, message) = one.ask_run("fails", "r").await.expect_err("no directory");
        assert!(message.contains("cannot work in"), "{message}");
        one.make("wrong", definition("kill -9 $PPID")).await;
        let run = one.begin_run("wrong", "r").await;
        let state = one.until_is(&run, "failed").await;
        let AutomationRunLifecycle::Failed(failed) = state.lifecycle else {
            unreachable!()
        };
        assert!(!failed.error.error_type.is_empty() && !failed.error.message.is_empty());
        assert!(failed.started_at.is_some());
        one.until_newest("wrong", "failed").await;
        assert!(
            one.try_follow("ahp-automation-run:/j-none", None, None)
                .await
                .is_err()
        );
    });
}

#[test]
fn killed_the_next_host_has_the_same_automations_and_the_same_runs() {
    run(async {
        let place = Place::new();
        let mut first = place.host();
        let mut one = peer(&first.client, "one").await;
        one.make("say", definition("echo it")).await;
        let mut by_hand = definition("sleep 1000");
        by_hand["triggers"] = json!([]);
        one.make("by-hand", by_hand).await;
        let run = one.begin_run("say", "r1").await;
        one.until_is(&run, "completed").await;
        one.until_newest("say", "completed").await;
        let held = one.begin_run("by-hand", "r1").await;
        one.until_is(&held, "running").await;
        one.until("its agent is there", |peer| {
            peer.run_of(&held).sessions.len() == 2
        })
        .await;
        one.settle().await;
        let (mut before, ended) = (one.catalogue(), one.state(&run));
        let last = one.seq;
        first.signal(Signal::KILL);
        first.ended();
        let second = place.host();
        let (mut one, result) = one.back(&second.client).await;
        assert!(matches!(result, ReconnectResult::Snapshot(_)), "{result:?}");
        assert!(one.seq >= last);
        // What had run goes on, in other sessions; all else is the same.
        one.until("it runs again", |peer| {
            peer.run_of(&held).sessions.len() == 2
        })
        .await;
        let mut now = one.catalogue();
        for state in [&mut before, &mut now] {
            let mut runs = state.entries.iter_mut().flat_map(|entry| &mut entry.runs);
            let running = runs.find(|run| run.resource == held).expect("the run");
            assert_eq!(status(&running.lifecycle), "running");
            (running.primary_session, running.session_count) = (None, 0);
            state.entries.sort_by(|a, b| a.resource.cmp(&b.resource));
        }
        assert_eq!(before, now);
        assert_eq!(one.state(&run), ended);
        assert_eq!(one.ask_run("say", "r1").await, Ok(run));
        assert_eq!(one.ask_run("by-hand", "r1").await, Ok(held.clone()));
        one.dispatch(&held, cancel()).await;
        one.until_is(&held, "cancelled").await;
        one.until_newest("by-hand", "cancelled").await;
    });
}
