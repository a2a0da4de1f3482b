//! The catalogue: what is set over REST and by clients is shown to all, and changed by any of them.

use std::sync::{Arc, Mutex};

use ahp_types::commands::ReconnectResult;
use ahp_types::state::{AutomationOperation, AutomationRunOrigin, AutomationTrigger};
use serde_json::json;

use super::{AUTOMATIONS, definition, fresh, peer, quick, removed, status, update, uri};
use crate::mirror::Mirror;
use crate::peer::{Peer, connect, versions};
use crate::support::{Place, run};

#[test]
fn schedules_that_are_set_over_rest_are_automations_and_stay_what_they_are() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let rest = &host.client;
        rest.raw(
            hyper::Method::PUT,
            "/v1/schedules/nightly",
            quick().to_string().into(),
        )
        .await
        .expect(200);
        let client = connect(rest).await;
        let said = client
            .initialize("cap".into(), versions(), vec![AUTOMATIONS.into()])
            .await
            .expect("initialized");
        assert_eq!(said.snapshots.len(), 1, "{said:?}");
        let offered = said.automations.expect("they are offered");
        assert!(offered.create.is_some() && offered.schedules.is_some());
        assert!(offered.run_cancellation.is_some() && offered.customizations.is_none());
        let mut peer = peer(rest, "one").await;
        let address = Arc::new(Mutex::new(rest.clone()));
        let mut mirror = Mirror::new();
        mirror.add("host", &address).await;
        assert!(mirror.follow("host", AUTOMATIONS).await);

        let entry = peer.entry("nightly").expect("it is there");
        assert_eq!(entry.definition.title, "nightly");
        assert_eq!(entry.definition.message.text, "Does nothing");
        assert_eq!(
            entry.definition.session.working_directories.as_deref(),
            Some(&["file:///tmp".to_owned()][..])
        );
        let [AutomationTrigger::Schedule(trigger)] = &entry.definition.triggers[..] else {
            panic!("{entry:?}")
        };
        assert_eq!(trigger.schedule.expression, "0 * * * *");
        assert_eq!(trigger.schedule.time_zone, "UTC");
        let shown = rest.get("/v1/schedules/nightly").await.expect(200);
        assert!(shown["next_at"].is_u64() && entry.next_run_at.is_some());
        assert!(entry.runs.is_empty() && entry.operations.contains(&AutomationOperation::Run));

        // Its flow says what it does, and no client.
        let changes = json!({"message": {"text": "x", "origin": {"kind": "automation"}}});
        let seq = peer.dispatch(AUTOMATIONS, update("nightly", changes)).await;
        assert!(peer.refusal(seq).await.contains("its flow"));
        let changes = json!({"title": "Every hour", "triggers": []});
        peer.dispatch(AUTOMATIONS, update("nightly", changes)).await;
        peer.until("it is run by hand only", |peer| {
            let entry = peer.entry("nightly").expect("it is there");
            entry.definition.triggers.is_empty() && entry.next_run_at.is_none()
        })
        .await;
        let shown = rest.get("/v1/schedules/nightly").await.expect(200);
        assert_eq!(shown["cron"], "@never");
        assert_eq!(shown["enabled"], true);

        rest.patch(
            "/v1/schedules/nightly",
            json!({"cron": "5 * * * *", "enabled": false}),
        )
        .await
        .expect(200);
        peer.until("it is disabled", |peer| {
            let entry = peer.entry("nightly").expect("it is there");
            !entry.definition.enabled && entry.next_run_at.is_none()
        })
        .await;
        let entry = peer.entry("nightly").expect("it is there");
        assert_eq!(entry.definition.title, "Every hour");
        assert!(entry.modified_at >= entry.created_at);
        rest.post("/v1/schedules/nightly/run", json!({}))
            .await
            .expect(201);
        peer.until_newest("nightly", "completed").await;
        let entry = peer.entry("nightly").expect("it is there");
        assert_eq!(entry.runs.len(), 1);
        assert!(matches!(
            entry.runs[0].origin,
            AutomationRunOrigin::Manual(_)
        ));
        peer.settle().await;
        let now = peer.state(AUTOMATIONS);
        assert_eq!(now, fresh(rest, AUTOMATIONS).await);
        mirror.until("host", AUTOMATIONS, &now).await;

        rest.delete("/v1/schedules/nightly").await.expect(204);
        peer.until("it is gone", |peer| peer.catalogue().entries.is_empty())
            .await;
        mirror
            .until("host", AUTOMATIONS, &json!({"entries": []}))
            .await;
        // Another one of its name has nothing to do with its runs.
        rest.raw(
            hyper::Method::PUT,
            "/v1/schedules/nightly",
            quick().to_string().into(),
        )
        .await
        .expect(200);
        peer.until("another is there", |peer| peer.entry("nightly").is_some())
            .await;
        assert!(peer.entry("nightly").expect("another").runs.is_empty());
        mirror.end().await;
    });
}

#[test]
fn two_clients_change_and_remove_what_both_are_shown() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut one = peer(&host.client, "one").await;
        let mut two = peer(&host.client, "two").await;
        let mut by_hand = definition("echo one");
        by_hand["triggers"] = json!([]);
        one.make("say", by_hand).await;
        two.until("it is shown", |peer| peer.entry("say").is_some())
            .await;
        assert!(two.entry("say").expect("it").next_run_at.is_none());
        // Two change other things at once; nothing is lost.
        let triggers = definition("")["triggers"].clone();
        one.dispatch(AUTOMATIONS, update("say", json!({"triggers": triggers})))
            .await;
        let message = json!({"text": "echo two", "origin": {"kind": "automation"}});
        let changes = json!({"title": "Two", "message": message, "_meta": {"k": 1}});
        two.dispatch(AUTOMATIONS, update("say", changes)).await;
        for peer in [&mut one, &mut two] {
            peer.until("both are there", |peer| {
                let entry = peer.entry("say").expect("it");
                entry.definition.title == "Two"
                    && entry.definition.message.text == "echo two"
                    && entry.definition.triggers.len() == 1
                    && entry.next_run_at.is_some()
            })
            .await;
        }
        let run = one.begin_run("say", "r").await;
        one.until_is(&run, "completed").await;
        let job = run.rsplit('/').next().expect("an id");
        let shown = host
            .client
            .get(&format!("/v1/jobs/{job}"))
            .await
            .expect(200);
        assert_eq!(shown["outputs"]["text"], "two\n");
        for enabled in [false, true] {
            two.dispatch(AUTOMATIONS, update("say", json!({"enabled": enabled})))
                .await;
            for peer in [&mut one, &mut two] {
                peer.until("it is so", |peer| {
                    let entry = peer.entry("say").expect("it");
                    entry.definition.enabled == enabled && entry.next_run_at.is_some() == enabled
                })
                .await;
            }
        }
        // Both remove it; for the second there is nothing to do.
        one.dispatch(AUTOMATIONS, removed("say")).await;
        two.dispatch(AUTOMATIONS, removed("say")).await;
        for peer in [&mut one, &mut two] {
            peer.until("it is gone", |peer| peer.entry("say").is_none())
                .await;
            peer.settle().await;
        }
        host.client.get("/v1/schedules/say").await.error(404);
        // Its run stays.
        assert_eq!(fresh(&host.client, &run).await, one.state(&run));
        assert_eq!(one.ask_run("say", "r2").await.expect_err("gone").0, -32008);
        let seq = one.dispatch(AUTOMATIONS, update("say", json!({}))).await;
        assert!(one.refusal(seq).await.contains("no schedule"));
    });
}

#[test]
fn the_history_is_given_in_pages_to_all_and_who_comes_back_has_missed_nothing() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let rest = &host.client;
        let mut schedule = quick();
        schedule["overlap"] = json!("allow");
        rest.raw(
            hyper::Method::PUT,
            "/v1/schedules/often",
            schedule.to_string().into(),
        )
        .await
        .expect(200);
        let mut one = peer(rest, "one").await;
        let away = peer(rest, "away").await;
        away.client.shutdown().await;
        for n in 0..45 {
            one.ask_run("often", &n.to_string()).await.expect("a run");
        }
        let ended = |peer: &Peer| {
            let entry = peer.entry("often").expect("it");
            let ended = |run: &ahp_types::state::AutomationRunSummary| {
                status(&run.lifecycle) == "completed"
            };
            entry.runs.len() == 20 && entry.runs.iter().all(ended)
        };
        // What has come is taken in first: before the last one was made, all may have ended.
        one.settle().await;
        one.until("all have ended", ended).await;
        let (mut away, result) = away.back(rest).await;
        assert!(
            matches!(&result, ReconnectResult::Replay(replay) if replay.missing.is_empty()),
            "{result:?}"
        );
        away.settle().await;
        assert_eq!(away.state(AUTOMATIONS), one.state(AUTOMATIONS));
        let params = |cursor: Option<String>| {
            let mut params = json!({"channel": AUTOMATIONS, "automation": uri("often")});
            if let Some(cursor) = cursor {
                params["cursor"] = json!(cursor);
            }
            params
        };
        let first = one.entry("often").expect("it").runs_next_cursor;
        assert!(first.is_some());
        for (cursor, count) in [(first.clone(), 40), (None, 45)] {
            one.ask("fetchAutomationRuns", params(cursor))
                .await
                .expect("acknowledged");
            for peer in [&mut one, &mut away] {
                peer.until("a page more", |peer| {
                    peer.entry("often").expect("it").runs.len() == count
                })
                .await;
            }
        }
        let entry = one.entry("often").expect("it");
        assert_eq!(entry.runs_next_cursor, None);
        let mut runs: Vec<&str> = entry.runs.iter().map(|run| &*run.resource).collect();
        runs.sort_unstable();
        runs.dedup();
        assert_eq!(runs.len(), 45);
        // A page that is there already is there.
        one.ask("fetchAutomationRuns", params(first))
            .await
            .expect("acknowledged");
        let wrong = one
            .ask("fetchAutomationRuns", params(Some("x".into())))
            .await;
        assert_eq!(wrong.expect_err("no cursor").0, -32602);
        one.settle().await;
        away.settle().await;
        assert_eq!(away.state(AUTOMATIONS), one.state(AUTOMATIONS));
        assert_eq!(one.state(AUTOMATIONS), fresh(rest, AUTOMATIONS).await);
    });
}
