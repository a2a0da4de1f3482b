//! Flows played through without anything being started.

use std::collections::{BTreeMap, VecDeque};

use hostler_ledger::StepRunUpdate;

use super::*;

/// A job whose runs end as a test says, and whose rows are kept as the ledger would.
struct Played {
    flow: Arc<Flow>,
    progress: Progress,
    rows: BTreeMap<u32, StepRunRow>,
    /// Runs that have begun and not ended.
    running: VecDeque<Plan>,
    cancelled: Vec<u32>,
    paused: bool,
    end: Option<End>,
}

impl Played {
    fn new(text: &str) -> Self {
        let flow = Arc::new(crate::check(text).unwrap_or_else(|wrong| panic!("{wrong:?}")));
        let progress = Progress::new(JobId::new(), flow.clone(), Map::new());
        let mut played = Self {
            flow,
            progress,
            rows: BTreeMap::new(),
            running: VecDeque::new(),
            cancelled: Vec::new(),
            paused: false,
            end: None,
        };
        let effects = played.progress.advance();
        played.take(effects);
        played
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Write(Change::StepBegan { run, .. }) => {
                    let number = run.number;
                    assert!(self.rows.insert(number, *run).is_none(), "{number} twice");
                }
                Effect::Write(Change::StepChanged { run, update, .. }) => self.change(run, *update),
                Effect::Write(other) => panic!("{other:?}"),
                Effect::Start(plan) => self.running.push_back(plan),
                Effect::Cancel(run) => self.cancelled.push(run),
                Effect::Pause(_) => self.paused = true,
                Effect::End(end) => {
                    assert!(self.end.is_none(), "it ends once");
                    self.end = Some(end);
                }
            }
        }
        while let Some(run) = self.cancelled.pop() {
            self.over(run, Outcome::failed(StepError::cancelled()));
        }
    }

    fn change(&mut self, run: u32, update: StepRunUpdate) {
        let row = self.rows.get_mut(&run).expect("a row");
        if let Some(state) = update.state {
            assert!(!row.state.is_ended(), "{run} ends once: {row:?}");
            row.state = state;
        }
        row.detail = update.detail.unwrap_or(std::mem::take(&mut row.detail));
        row.outputs = update.outputs.or(row.outputs.take());
        row.error = update.error.or(row.error.take());
        row.follows = update.follows.or(row.follows.take());
    }

    fn over(&mut self, run: u32, outcome: Outcome) {
        self.running.retain(|plan| plan.run != run);
        if self.end.is_none() {
            let effects = self.progress.run_ended(run, outcome);
            self.take(effects);
        }
    }

    /// Ends the oldest run of this step.
    fn ends(&mut self, step: &str, outcome: Outcome) {
        let of = |plan: &&Plan| self.flow.steps[plan.step].id.value.as_str() == step;
        let run = self
            .running
            .iter()
            .find(of)
            .unwrap_or_else(|| panic!("{step} does not run"))
            .run;
        self.over(run, outcome);
    }

    fn gives(&mut self, step: &str, code: i64) {
        let mut outputs = Map::new();
        outputs.insert("exit_code".into(), code.into());
        outputs.insert("stdout".into(), format!("{step} {code}").into());
        match code {
            0..10 => self.ends(step, Outcome::completed(outputs)),
            _ => self.ends(
                step,
                Outcome {
                    outputs,
                    ..Outcome::failed(StepError::new("exit_code", "it failed"))
                },
            ),
        }
    }

    fn runs(&self) -> Vec<String> {
        let name = |plan: &Plan| self.flow.steps[plan.step].id.value.to_string();
        self.running.iter().map(name).collect()
    }

    fn code(&self) -> (&str, &str) {
        let end = self.end.as_ref().expect("it has ended");
        (
            end.end.as_str(),
            end.why["code"].as_str().unwrap_or_default(),
        )
    }

    /// The same job in the next host, with all that runs taken up.
    fn in_the_next_host(&mut self) {
        let rows: Vec<StepRunRow> = self.rows.values().cloned().collect();
        let mut progress = Progress::new(JobId::new(), self.flow.clone(), Map::new());
        let live = progress.replay(&rows, &[], self.paused);
        let mut taken: Vec<u32> = live.iter().map(|live| live.plan.run).collect();
        let mut before: Vec<u32> = self.running.iter().map(|plan| plan.run).collect();
        taken.sort_unstable();
        before.sort_unstable();
        assert_eq!(taken, before, "what runs is known: {rows:#?}");
        self.progress = progress;
        if self.end.is_none() {
            let effects = self.progress.go_on();
            self.take(effects);
        }
    }
}

const LOOP: &str = "
name: x
steps:
  code: { command: x, inputs: { last: { last: test.stdout, default: none } } }
  test:
    after: code
    command: { run: x, exit_codes: [0, 1] }
    exits:
      - { name: passed, when: outputs.exit_code == 0, action: advance }
      - { name: again, when: attempt < 3, action: loop, target: code, max_iterations: 5 }
      - { name: stuck, action: escalate }
  keep: { after: test, command: x }
outputs: { result: test.stdout }
";

#[test]
fn a_loop_is_followed_until_it_may_not_be_and_a_person_decides() {
    let mut job = Played::new(LOOP);
    for attempt in 1..=3 {
        assert_eq!(job.runs(), ["code"], "attempt {attempt}");
        let wanted = if attempt == 1 { "none" } else { "test 1" };
        assert_eq!(job.running[0].inputs["last"], wanted);
        job.gives("code", 0);
        job.in_the_next_host();
        job.gives("test", 1);
        if attempt < 3 {
            job.in_the_next_host();
        }
    }
    assert!(job.paused && job.runs().is_empty());
    job.in_the_next_host();
    job.paused = false;
    let effects = job.progress.resume();
    job.take(effects);
    assert_eq!(job.runs(), ["keep"]);
    job.gives("keep", 0);
    assert_eq!(job.code(), ("completed", "completed"));
    let outputs = job.end.as_ref().and_then(|end| end.outputs.clone());
    assert_eq!(outputs, Some(serde_json::json!({ "result": "test 1" })));
}

#[test]
fn a_loop_has_an_end() {
    let text = "name: x\nsteps:\n  a:\n    command: x\n    exits: [{ name: again, when: attempt > 0, action: loop, target: a, max_iterations: 4 }]\n";
    let mut job = Played::new(text);
    for _ in 0..5 {
        job.in_the_next_host();
        job.gives("a", 0);
    }
    assert_eq!(job.code(), ("failed", "loop_limit"));
    assert_eq!(job.rows.len(), 5);
}

#[test]
fn what_follows_a_failure_is_what_the_step_says() {
    for (more, runs, code) in [
        ("", vec![], Some(("failed", "step_failed"))),
        ("on_error: continue", vec!["b"], None),
        ("on_error: pause", vec![], None),
        ("retry: { times: 2, backoff: 1ms }", vec!["a"], None),
        ("fallback: { command: y }", vec!["a"], None),
        (
            "exits: [{ name: x, when: error.code == 'exit_code', action: advance }]",
            vec!["b", "c"],
            None,
        ),
        (
            "exits: [{ name: x, when: error == null, action: advance }]",
            vec![],
            Some(("failed", "step_failed")),
        ),
        (
            "exits: [{ name: x, action: abandon }]",
            vec![],
            Some(("failed", "abandoned")),
        ),
        (
            "exits: [{ name: x, when: outputs.exit_code / 0 == 1, action: advance }]",
            vec![],
            Some(("failed", "step_failed")),
        ),
        ("exits: [{ name: x, action: escalate }]", vec![], None),
    ] {
        let text = format!(
            "name: x\nsteps:\n  a:\n    command: x\n    {more}\n  b: {{ after: a, command: x }}\n  c: {{ command: x, inputs: {{ out: a.stdout }} }}\n"
        );
        let mut job = Played::new(&text);
        job.gives("a", 10);
        job.in_the_next_host();
        assert_eq!(job.runs(), runs, "{more}");
        assert_eq!(job.end.is_some().then(|| job.code()), code, "{more}");
        assert_eq!(
            job.paused,
            more.contains("pause") || more.contains("escalate"),
            "{more}"
        );
    }
}

#[test]
fn a_run_that_fails_is_tried_again_and_then_by_the_fallback() {
    let text = "name: x\nsteps:\n  a: { command: x, retry: { times: 2, backoff: 3s }, fallback: { sleep: 1s } }\n";
    let mut job = Played::new(text);
    for pause in [0, 3, 6] {
        assert_eq!(job.running[0].pause.as_secs(), pause);
        assert!(!job.running[0].fallback);
        job.in_the_next_host();
        job.running[0].pause = Duration::from_secs(pause);
        job.gives("a", 10);
    }
    assert!(job.running[0].fallback);
    job.ends("a", Outcome::completed(Map::new()));
    assert_eq!(job.code(), ("completed", "completed"));
}

#[test]
fn items_run_in_parallel_and_a_failure_is_theirs_or_everybodys() {
    for (policy, over) in [
        ("fail_fast", Some(("failed", "step_failed"))),
        ("collect", None),
    ] {
        let text = format!(
            "name: x\nsteps:\n  list:\n    command: {{ run: x, stdout: json }}\n    outputs: {{ all: {{ items: integer }} }}\n  each:\n    for_each: {{ in: list.all, parallel: 2, on_failure: {policy} }}\n    inputs: {{ n: $item, i: $index }}\n    command: x\n  sum: {{ command: x, inputs: {{ all: each.exit_code }} }}\n"
        );
        let mut job = Played::new(&text);
        let all = serde_json::json!({ "all": [5, 6, 7, 8], "exit_code": 0 });
        let Value::Object(all) = all else {
            unreachable!()
        };
        job.ends("list", Outcome::completed(all));
        assert_eq!(job.runs(), ["each", "each"]);
        assert_eq!(
            job.running[1].inputs,
            *serde_json::json!({ "n": 6, "i": 1 })
                .as_object()
                .expect("an object")
        );
        job.gives("each", 0);
        job.in_the_next_host();
        job.gives("each", 10);
        job.in_the_next_host();
        if over.is_none() {
            job.gives("each", 2);
            job.gives("each", 3);
            assert_eq!(
                job.running[0].inputs["all"],
                serde_json::json!([0, null, 2, 3])
            );
            job.gives("sum", 0);
        }
        assert_eq!(
            job.code(),
            over.unwrap_or(("completed", "completed")),
            "{policy}"
        );
        assert!(job.running.is_empty());
    }
}

#[test]
fn what_needs_what_is_not_there_is_skipped_and_what_is_false_is_not_done() {
    let text = "
name: x
steps:
  a: { command: x, when: 1 == 2 }
  b: { command: x, inputs: { a: a.stdout } }
  c: { command: x, inputs: { a: { from: a.stdout, default: none }, b: { any: [b.stdout, d.stdout] } } }
  d: { command: x }
  e: { after: [b], command: x, when: steps.a.state == 'skipped' }
outputs: { one: { from: a.stdout, optional: true }, two: c.stdout }
";
    let mut job = Played::new(text);
    assert_eq!(job.runs(), ["d", "e"]);
    job.gives("e", 0);
    job.gives("d", 0);
    assert_eq!(job.running[0].inputs["a"], "none");
    assert_eq!(job.running[0].inputs["b"], "d 0");
    job.gives("c", 4);
    let outputs = job.end.as_ref().and_then(|end| end.outputs.clone());
    assert_eq!(
        outputs,
        Some(serde_json::json!({ "one": null, "two": "c 4" }))
    );
}

#[test]
fn an_output_that_is_missing_is_no_completion() {
    let text = "name: x\nsteps:\n  a: { command: x, when: 1 == 2 }\noutputs: { one: a.stdout }\n";
    assert_eq!(Played::new(text).code(), ("failed", "missing_output"));
}

#[test]
fn what_comes_while_the_job_is_paused_is_kept_and_nothing_begins() {
    let text = "name: x\nsteps:\n  a: { command: x, retry: 1 }\n  b: { command: x }\n  c: { after: b, command: x }\n";
    let mut job = Played::new(text);
    job.progress.pause();
    job.paused = true;
    job.gives("a", 10);
    job.gives("b", 0);
    assert!(job.running.is_empty() && job.end.is_none());
    job.in_the_next_host();
    assert!(job.running.is_empty() && job.end.is_none());
    job.paused = false;
    let effects = job.progress.resume();
    job.take(effects);
    let mut runs = job.runs();
    runs.sort();
    assert_eq!(runs, ["a", "c"]);
}

#[test]
fn what_was_cut_off_is_made_again_or_has_failed() {
    let text = "name: x\nsteps:\n  a: { command: x, interrupted: fail, on_error: continue }\n  b: { command: x }\n";
    let mut job = Played::new(text);
    for (run, again) in [(1, false), (2, true)] {
        job.running.retain(|plan| plan.run != run);
        job.progress.interrupted(run, again);
    }
    let effects = job.progress.go_on();
    job.take(effects);
    assert_eq!(job.runs(), ["b"]);
    assert_eq!(job.rows[&1].state, hostler_ledger::StepRunState::Failed);
    assert_eq!(job.rows[&2].state, hostler_ledger::StepRunState::Cancelled);
    assert_eq!(job.rows[&3].try_, 1, "it does not count");
    job.in_the_next_host();
    job.gives("b", 0);
    assert_eq!(job.code(), ("completed", "completed"));
}

#[test]
fn a_step_is_done_again_with_all_that_waits_for_it() {
    let text = "name: x\nsteps:\n  a: { command: x }\n  b: { command: x, inputs: { a: a.stdout } }\n  c: { after: b, command: x }\n  d: { command: x }\n";
    let mut job = Played::new(text);
    job.gives("a", 0);
    job.gives("d", 0);
    job.gives("b", 0);
    job.progress.pause();
    let refused = job.progress.retry_from(&"b".parse().expect("a name"));
    assert!(refused.expect_err("c runs").contains("`c` is running"));
    job.gives("c", 0);
    let again = job
        .progress
        .retry_from(&"b".parse().expect("a name"))
        .expect("again");
    let rows: Vec<StepRunRow> = job.rows.values().cloned().collect();
    let effects = job.progress.resume();
    job.take(effects);
    assert_eq!(job.runs(), ["b"]);
    let mut next = Progress::new(JobId::new(), job.flow.clone(), Map::new());
    assert!(next.replay(&rows, &[again], false).is_empty());
    let begun: Vec<usize> = next
        .go_on()
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Start(plan) => Some(plan.step),
            _ => None,
        })
        .collect();
    assert_eq!(begun, [1], "the next host knows of it");
}

/// A chain of steps, each of which is done when the one before it was.
fn chain(steps: usize) -> String {
    let mut text = "name: x\nsteps:\n  s0: { command: x }\n".to_owned();
    for n in 1..steps {
        let before = n - 1;
        text += &format!(
            "  s{n}: {{ after: s{before}, command: x, when: steps.s{before}.state == 'completed' }}\n"
        );
    }
    text
}

/// How long it takes to play this through, at best: what it costs, not what else the machine does.
fn at_best(play: impl Fn()) -> Duration {
    let times = (0..3).map(|_| {
        let began = std::time::Instant::now();
        play();
        began.elapsed()
    });
    times.min().expect("one")
}

/// Eight times as much of what is quadratic takes 64 times as long.
fn is_linear(what: &str, small: Duration, eight_times: Duration) {
    eprintln!("{what}: {small:?}, eight times as many {eight_times:?}");
    assert!(
        eight_times < small * 24,
        "{what}: {small:?}, {eight_times:?}"
    );
}

#[test]
fn a_chain_of_conditions_takes_no_longer_a_step_when_it_is_long() {
    let [small, large] = [250, 2000].map(|steps| {
        let text = chain(steps);
        let checked = at_best(|| drop(crate::check(&text).expect("right")));
        let played = at_best(|| {
            let mut job = Played::new(&text);
            for step in 0..steps {
                job.gives(&format!("s{step}"), 0);
            }
            assert_eq!(job.code(), ("completed", "completed"));
            let rows: Vec<StepRunRow> = job.rows.values().cloned().collect();
            let mut next = Progress::new(JobId::new(), job.flow.clone(), Map::new());
            assert!(next.replay(&rows, &[], false).is_empty());
        });
        (checked, played)
    });
    is_linear("checked", small.0, large.0);
    is_linear("checked and played", small.1, large.1);
}

#[test]
fn a_long_list_takes_no_longer_an_item() {
    let text = "name: x\nsteps:\n  list:\n    command: { run: x, stdout: json }\n    outputs: { all: { items: integer } }\n  each:\n    for_each: { in: list.all, parallel: 2 }\n    inputs: { n: $item, i: $index }\n    command: x\n    exits: [{ name: x, when: size(outputs) > 0, action: advance }]\n";
    let [small, large] = [1250, 10_000].map(|items| {
        at_best(|| {
            let mut job = Played::new(text);
            let all: Vec<usize> = (0..items).collect();
            let Value::Object(all) = serde_json::json!({ "all": all, "exit_code": 0 }) else {
                unreachable!()
            };
            job.ends("list", Outcome::completed(all));
            for item in 0..items {
                if item == items / 2 {
                    job.in_the_next_host();
                }
                job.gives("each", 0);
            }
            assert_eq!(job.code(), ("completed", "completed"));
        })
    });
    is_linear("items", small, large);
}
