//! Schedules as automations: seen, made, run, changed and removed by clients.

use std::sync::{Arc, Mutex};

use ahp_types::commands::ReconnectResult;
use ahp_types::state::{
    AutomationEntry, AutomationOperation, AutomationRunLifecycle, AutomationRunOrigin,
    AutomationRunState, AutomationState, AutomationTrigger, SnapshotState,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::mirror::Mirror;
use crate::peer::{Peer, ROOT, connect, versions};
use crate::support::{self, Place, run};

pub(crate) const AUTOMATIONS: &str = "ahp-automations://";

fn uri(name: &str) -> String {
    format!("ahp-automation:/{name}")
}

/// What a client writes: one message for the built-in agent, once a year.
fn definition(text: &str) -> Value {
    json!({
        "title": "Say it",
        "message": {"text": text, "origin": {"kind": "automation"}},
        "session": {"provider": "shell", "workingDirectories": ["file:///tmp"]},
        "enabled": true,
        "triggers": [{"kind": "schedule", "id": "yearly", "schedule": {"expression": "30 4 1 JAN *", "timeZone": "Europe/Berlin"}}],
    })
}

fn create(name: &str, definition: Value) -> Value {
    json!({"type": "automation/createRequested", "resource": uri(name), "definition": definition})
}

fn update(name: &str, changes: Value) -> Value {
    json!({"type": "automation/updateRequested", "resource": uri(name), "changes": changes})
}

fn removed(name: &str) -> Value {
    json!({"type": "automation/removed", "resource": uri(name)})
}

fn cancel() -> Value {
    json!({"type": "automationRun/cancelRequested"})
}

fn status(lifecycle: &AutomationRunLifecycle) -> String {
    let value = serde_json::to_value(lifecycle).expect("JSON");
    value["status"].as_str().expect("a status").to_owned()
}

impl Peer {
    fn catalogue(&self) -> AutomationState {
        match self.states.get(AUTOMATIONS) {
            Some(SnapshotState::Automations(state)) => (**state).clone(),
            other => panic!("{other:?}"),
        }
    }

    fn entry(&self, name: &str) -> Option<AutomationEntry> {
        let entries = self.catalogue().entries.into_iter();
        entries.into_iter().find(|one| one.resource == uri(name))
    }

    fn run_of(&self, channel: &str) -> AutomationRunState {
        match self.states.get(channel) {
            Some(SnapshotState::AutomationRun(state)) => (**state).clone(),
            other => panic!("{other:?}"),
        }
    }

    /// Makes an automation, and waits until it is shown.
    async fn make(&mut self, name: &str, definition: Value) {
        self.dispatch(AUTOMATIONS, create(name, definition)).await;
        self.until("it is shown", |peer| peer.entry(name).is_some())
            .await;
    }

    /// Runs one now, and follows the run.
    async fn begin_run(&mut self, name: &str, request: &str) -> String {
        let run = self.ask_run(name, request).await.expect("a run");
        self.follow(&run).await;
        run
    }

    async fn ask_run(&self, name: &str, request: &str) -> Result<String, (i32, String)> {
        let params = json!({"channel": AUTOMATIONS, "automation": uri(name), "requestId": request});
        let answer = self.ask("runAutomation", params).await?;
        Ok(answer["resource"].as_str().expect("a run").to_owned())
    }

    async fn until_is(&mut self, run: &str, wanted: &str) -> AutomationRunState {
        self.until(wanted, |peer| status(&peer.run_of(run).lifecycle) == wanted)
            .await;
        self.run_of(run)
    }

    /// Waits until the newest run of an automation stands like this.
    async fn until_newest(&mut self, name: &str, wanted: &str) {
        self.until(wanted, |peer| {
            let entry = peer.entry(name).expect("an automation");
            let newest = entry.runs.first();
            newest.is_some_and(|run| status(&run.lifecycle) == wanted)
        })
        .await;
    }
}

/// What somebody is given who comes now, of this channel.
async fn fresh(host: &support::Client, channel: &str) -> Value {
    let mut fresh = Peer::new(host, "fresh").await;
    fresh.follow(channel).await;
    let state = fresh.state(channel);
    fresh.client.shutdown().await;
    state
}

/// A peer that follows the catalogue.
async fn peer(host: &support::Client, name: &str) -> Peer {
    let mut peer = Peer::new(host, name).await;
    peer.follow(AUTOMATIONS).await;
    peer
}

fn quick() -> Value {
    json!({"cron": "@hourly", "zone": "UTC", "cwd": "/tmp",
        "flow": "name: quick\ndescription: Does nothing\nsteps: { a: { command: 'true' } }\n"})
}

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
        let both = |peer: &Peer| peer.run_of(&run).sessions.len() == 2;
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
fn what_cannot_be_an_automation_is_refused_with_the_reason() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let mut peer = peer(&host.client, "one").await;
        peer.make("there", definition("true")).await;
        let before = peer.state(AUTOMATIONS);
        let with = |change: &dyn Fn(&mut Value)| {
            let mut definition = definition("true");
            change(&mut definition);
            definition
        };
        let event = json!({"kind": "event", "id": "e", "type": "t", "title": "T", "events": []});
        let plugin = json!({"id": "p", "uri": "virtual:///p", "name": "P"});
        let cron = |definition: &mut Value, expression: &str| {
            definition["triggers"][0]["schedule"]["expression"] = json!(expression);
        };
        let cases: Vec<(&str, Value, &str)> = vec![
            ("there", definition("true"), "already"),
            ("a b", definition("true"), "a schedule has a name"),
            (
                "x",
                with(&|it| it["session"]["provider"] = json!("nobody")),
                "no agent `nobody`",
            ),
            ("x", with(&|it| cron(it, "61 * * * *")), "`61` is no minute"),
            ("x", with(&|it| cron(it, "@daily")), "five fields"),
            (
                "x",
                with(&|it| cron(it, "0 0 L * *")),
                "`L` is no day of the month",
            ),
            ("x", with(&|it| cron(it, "0 0 30 2 *")), "never due"),
            (
                "x",
                with(&|it| it["triggers"][0]["schedule"]["timeZone"] = json!("Mars/Olympus")),
                "no time zone",
            ),
            (
                "x",
                with(&|it| it["triggers"] = json!([event])),
                "no event triggers",
            ),
            (
                "x",
                with(&|it| {
                    let trigger = it["triggers"][0].clone();
                    it["triggers"] = json!([trigger, trigger]);
                }),
                "one schedule",
            ),
            (
                "x",
                with(&|it| it["session"]["customizations"] = json!([plugin])),
                "no customizations",
            ),
            (
                "x",
                with(&|it| it["session"]["model"] = json!({"id": "m"})),
                "the model",
            ),
            (
                "x",
                with(&|it| {
                    it["session"]["workingDirectories"] = json!(["file:///tmp", "file:///"])
                }),
                "one working directory",
            ),
            (
                "x",
                with(&|it| it["session"]["workingDirectories"] = json!(["file:///no/such"])),
                "cannot work in",
            ),
            (
                "x",
                with(&|it| it["message"]["text"] = json!(" ")),
                "a message",
            ),
            (
                "x",
                with(&|it| it["message"]["origin"]["kind"] = json!("user")),
                "`automation`",
            ),
            ("x", with(&|it| it["title"] = json!("")), "a title"),
            (
                "x",
                with(&|it| it["disableConditions"] = json!([{"kind": "afterRuns", "max": 1}])),
                "disable conditions",
            ),
        ];
        for (name, definition, words) in cases {
            let seq = peer.dispatch(AUTOMATIONS, create(name, definition)).await;
            let why = peer.refusal(seq).await;
            assert!(why.contains(words), "{words}: {why}");
            assert_eq!(why.lines().count(), 1, "{why}");
        }
        let elsewhere = json!({"type": "automation/createRequested", "resource": "ahp-session:/x", "definition": definition("true")});
        let seq = peer.dispatch(AUTOMATIONS, elsewhere).await;
        assert!(peer.refusal(seq).await.contains("`ahp-automation:/`"));
        let set = json!({"type": "automation/set", "automation": peer.entry("there")});
        let seq = peer.dispatch(AUTOMATIONS, set).await;
        assert!(peer.refusal(seq).await.contains("only the host"));
        peer.settle().await;
        assert_eq!(peer.state(AUTOMATIONS), before);
        let none = peer
            .ask(
                "listAutomationTriggerDefinitions",
                json!({"channel": AUTOMATIONS}),
            )
            .await;
        assert_eq!(none, Ok(json!({"items": []})));
        let asked = json!({"channel": AUTOMATIONS, "provider": "nobody"});
        let asked = peer.ask("listAutomationTriggerDefinitions", asked).await;
        assert_eq!(asked.expect_err("no agent").0, -32002);
        let asked = peer.ask_run("there", "").await;
        assert_eq!(asked.expect_err("no request").0, -32602);
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
        one.until("all have ended", ended).await;
        one.settle().await;
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
