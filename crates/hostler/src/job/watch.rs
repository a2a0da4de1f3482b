//! A job as it is watched: a line for all that happens, questions that are asked here, and its end.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::Write;
use std::pin::Pin;
use std::time::Duration;

use clap::Args;
use hyper::Method;
use rustix::stdio::stdin;
use serde_json::Value;
use tokio::sync::mpsc;

use super::answer::{Asking, Taken};
use super::api::{self, Job};
use super::feed::{Feed, patiently, patiently_over};
use super::run::whole;
use super::timeline;
use crate::client::api::Event;
use crate::client::error::{Failure, Result};
use crate::client::host::{Host, understand};
use crate::client::{Place, show, signals, tty, turn};
use hostler_run::say;

/// How long after the end of a job the last of its events may take.
const LAST: Duration = Duration::from_secs(2);
/// How long the host may take to hear of a cancel, when somebody leaves.
const TOLD: Duration = Duration::from_secs(3);
/// Between two looks at what jobs below ask: their events are not this job's.
const BELOW: Duration = Duration::from_secs(1);
/// Between two looks for a question that is just being asked.
const LOOK: Duration = Duration::from_millis(20);

/// What `hostler job watch` is told.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    place: Place,
    /// Print all about it at the end as JSON, and nothing on the way
    #[arg(long)]
    json: bool,
    /// The job
    job: String,
}

/// Watches a job that somebody else has made. A signal ends the watching, not the job.
pub(super) async fn run(watch: &Watch) -> Result<u8> {
    let mut host = watch.place.host()?;
    let told = signals::receive()?;
    let id = api::resolve(&mut host, &watch.job).await?;
    let job: Job = host.read(&format!("{}?brief=true", api::path(&id))).await?;
    let other = host.another();
    let watching = Watching {
        host: &other,
        id: &id,
        began: job.created,
        json: watch.json,
        may_have_below: true,
        cancels: false,
        interrupted: None,
    };
    if job.released {
        return watching.ended(job, None).await;
    }
    if !watch.json {
        line(&format!("job {}: {}", job.id, job.name));
    }
    watching.run(host, told).await
}

/// A line on standard error. That nobody reads it any more is nobody's failure.
pub(super) fn line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", show::plain(text));
}

/// What is being watched, and how.
pub(super) struct Watching<'a> {
    pub(super) host: &'a Host,
    pub(super) id: &'a str,
    /// When it was made: times count from there.
    pub(super) began: u64,
    /// Nothing is told on the way, and the whole job at the end.
    pub(super) json: bool,
    /// Whether it may have jobs below it, which may ask something.
    pub(super) may_have_below: bool,
    /// Whether a signal cancels it.
    pub(super) cancels: bool,
    /// A signal that has come already.
    pub(super) interrupted: Option<i32>,
}

/// What was asked of the host, and is answered once the job is gone.
type Asked = Pin<Box<dyn Future<Output = Result<Value>>>>;

/// What is asked here.
#[derive(Default)]
struct Desk {
    /// Runs that ask, and have not been shown.
    waiting: VecDeque<u32>,
    /// What jobs below ask, and has not been shown.
    below: VecDeque<api::Question>,
    /// What jobs below have asked, by job and run, and by what an agent has asked permission for.
    known: HashSet<(String, u32, Option<u64>)>,
    asking: Option<Asking>,
    /// What is typed, once somebody was asked.
    lines: Option<mpsc::Receiver<String>>,
}

impl Desk {
    /// Something has become of this run: what it had asked is not asked any more.
    fn asks_no_longer(&mut self, run: u32) {
        self.waiting.retain(|of| *of != run);
        let of_run = |asking: &Asking| asking.run() == run && asking.below().is_none();
        if self.asking.as_ref().is_some_and(of_run) {
            self.asking = None;
            line("(it is answered, or asked no longer)");
        }
    }

    /// The next line that is typed; never one where nobody can type.
    async fn typed(&mut self) -> String {
        if let Some(lines) = &mut self.lines
            && let Some(line) = lines.recv().await
        {
            return line;
        }
        std::future::pending().await
    }
}

impl Watching<'_> {
    /// Watches it to its end; what to exit with. `connected` is a connection that there is already, for its end: a host that is told
    /// to stop takes no new ones.
    pub(super) async fn run(
        &self,
        connected: Host,
        mut told: mpsc::UnboundedReceiver<i32>,
    ) -> Result<u8> {
        let mut feed = Feed::new(self.host, self.id);
        let mut waiting = self.gone(connected);
        let mut gone = None;
        let mut begins: HashMap<u32, u64> = HashMap::new();
        let mut desk = Desk::default();
        let mut interrupted = self.interrupted;
        let mut look_below = tokio::time::interval(BELOW);
        look_below.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut cancelling = self.interrupted.map(|signal| self.cancel(signal));
        loop {
            let event = tokio::select! {
                event = feed.next() => event.map_err(|failure| self.lost(failure))?,
                answer = &mut waiting, if gone.is_none() => {
                    gone = Some(answer.map_err(|failure| self.lost(failure))?);
                    continue;
                }
                // The last of the events is there by then, or does not come any more.
                () = tokio::time::sleep(LAST), if gone.is_some() => break,
                Some(signal) = told.recv() => {
                    self.signal(signal, &mut interrupted).await?;
                    if let Some(signal) = interrupted.filter(|_| cancelling.is_none()) {
                        cancelling = Some(self.cancel(signal));
                    }
                    continue;
                }
                _ = look_below.tick(), if self.may_have_below && gone.is_none() => {
                    self.look_below(&mut desk).await?;
                    self.ask_next(&mut desk).await?;
                    continue;
                }
                done = pending(&mut cancelling) => {
                    done.map_err(|failure| self.lost(failure))?;
                    cancelling = Some(Box::pin(std::future::pending()));
                    continue;
                }
                answer = desk.typed(), if desk.asking.is_some() => {
                    self.answered(&mut desk, &answer).await?;
                    self.ask_next(&mut desk).await?;
                    continue;
                }
            };
            self.tell(&event, &mut begins);
            let run = event.detail["run"]
                .as_u64()
                .and_then(|run| u32::try_from(run).ok());
            if let Some(run) = run {
                desk.asks_no_longer(run);
            }
            match (event.kind.as_str(), run) {
                ("step.suspended", Some(run)) => desk.waiting.push_back(run),
                ("job.completed" | "job.failed" | "job.cancelled", _) => break,
                ("job.deleted", _) => return Err(self.deleted()),
                _ => {}
            }
            self.ask_next(&mut desk).await?;
        }
        // What it held is gone a moment later.
        let gone = loop {
            if let Some(gone) = gone {
                break gone;
            }
            tokio::select! {
                answer = &mut waiting => gone = Some(answer.map_err(|failure| self.unproven(failure))?),
                Some(signal) = told.recv() => self.signal(signal, &mut interrupted).await?,
            }
        };
        self.ended(understand(gone)?, interrupted).await
    }

    /// What a signal means: the first cancels, another one leaves at once.
    async fn signal(&self, signal: i32, interrupted: &mut Option<i32>) -> Result<()> {
        match signal {
            signals::TSTP => hostler_keeper::signals::stop(signal),
            signals::WINCH => {}
            signals::INT | signals::TERM | signals::HUP if self.cancels => {
                if interrupted.replace(signal).is_some() {
                    self.is_told(signal).await?;
                    line(&format!(
                        "left; job {} is being cancelled all the same",
                        self.id
                    ));
                    return Err(Failure::Signal(signal));
                }
                line(&format!(
                    "cancelling job {}; once more leaves at once",
                    self.id
                ));
            }
            _ => return Err(Failure::Signal(signal)),
        }
        Ok(())
    }

    /// Makes sure that the host knows of the cancel: the request of the first signal may not have reached it.
    async fn is_told(&self, signal: i32) -> Result<()> {
        let why = format!("{} at hostler job run", signals::name(signal));
        let mut host = self.host.another().because(&why);
        let path = format!("{}/cancel?wait=false", api::path(self.id));
        let told = host.json(Method::POST, &path, None);
        match tokio::time::timeout(TOLD, told).await {
            Ok(told) => told.map(drop),
            Err(_) => Err(Failure::Unclear(format!(
                "the host does not answer; whether job {} is being cancelled is not known",
                self.id
            ))),
        }
    }

    fn cancel(&self, signal: i32) -> Asked {
        let why = format!("{} at hostler job run", signals::name(signal));
        let host = self.host.another().because(&why);
        let path = format!("{}/cancel", api::path(self.id));
        Box::pin(async move { patiently(&host, Method::POST, &path, None).await })
    }

    /// The job, once it has ended and nothing of it is left.
    fn gone(&self, connected: Host) -> Asked {
        let path = format!("{}/wait?brief=true", api::path(self.id));
        Box::pin(async move { patiently_over(connected, Method::GET, &path, None).await })
    }

    fn deleted(&self) -> Failure {
        Failure::Unclear(format!("job {} was deleted", self.id))
    }

    /// It has ended, but nobody can tell whether all of it is gone.
    fn unproven(&self, failure: Failure) -> Failure {
        match self.lost(failure) {
            Failure::Unclear(_) => Failure::Unclear(format!(
                "the host went away when job {} had ended; that nothing of it is left is for the next host to say",
                self.id
            )),
            failure => failure,
        }
    }

    /// It goes on, but nobody can tell how.
    fn lost(&self, failure: Failure) -> Failure {
        if failure.is_not_found() {
            return self.deleted();
        }
        if !super::feed::is_passing(&failure) {
            return failure;
        }
        let id = self.id;
        Failure::Unclear(format!(
            "{failure}; job {id} goes on with the next host: `hostler job watch {id}`"
        ))
    }

    /// A line for what has happened.
    fn tell(&self, event: &Event, begins: &mut HashMap<u32, u64>) {
        let run = event.detail["run"].as_u64().unwrap_or(0) as u32;
        let took = begins
            .get(&run)
            .map(|began| event.time.saturating_sub(*began));
        if matches!(event.kind.as_str(), "step.running" | "step.suspended") {
            begins.entry(run).or_insert(event.time);
        }
        // That it runs is to be told only where it was paused before.
        let begins_only = event.detail["state"] == "running" && begins.is_empty();
        if self.json || event.kind == "job.state" && begins_only {
            return;
        }
        if let Some(text) = timeline::event(event, took) {
            let at = show::span(event.time.saturating_sub(self.began));
            line(&format!("{at:>7}  {text}"));
        }
        if event.kind == "job.state" && event.detail["state"] == "paused" {
            let id = self.id;
            line(&format!(
                "         `hostler job resume {id}` lets it go on, `hostler job retry {id} --from STEP` does a step again, `hostler job cancel {id}` ends it"
            ));
        }
    }

    /// Asks what waits to be asked, one after the other: here, where somebody can type; else it is said how it is answered.
    async fn ask_next(&self, desk: &mut Desk) -> Result<()> {
        while desk.asking.is_none() {
            let question = match (desk.waiting.pop_front(), desk.below.pop_front()) {
                (Some(run), below) => {
                    desk.below.extend(below);
                    self.question(run).await?
                }
                (None, Some(question)) => Some(question),
                (None, None) => return Ok(()),
            };
            let Some(question) = question else {
                continue;
            };
            for text in format!("{} asks: {}", question.step, question.text.trim_end()).lines() {
                line(text);
            }
            let asking = Asking::new(question);
            if !(tty::stdin_is() && tty::is_foreground(stdin())) {
                line(&format!("answer it: {}", asking.command(self.id)));
                continue;
            }
            if desk.lines.is_none() {
                desk.lines = Some(turn::typed().0);
            }
            asking.prompt();
            desk.asking = Some(asking);
        }
        Ok(())
    }

    /// Finds what jobs below ask.
    async fn look_below(&self, desk: &mut Desk) -> Result<()> {
        let path = format!("{}?brief=true", api::path(self.id));
        // While hosts change there is nobody to ask.
        let Ok(job) = self.host.another().get(&path).await else {
            return Ok(());
        };
        let job: Job = understand(job)?;
        let asked = |asking: &Asking| {
            let below = asking.below()?.to_owned();
            Some((below, asking.run(), asking.request()))
        };
        if let Some((below, run, request)) = desk.asking.as_ref().and_then(asked) {
            let mut asks = job.asks.iter();
            let is = |of: &api::Question| {
                of.job.as_ref() == Some(&below) && of.run == run && of.request == request
            };
            if !asks.any(is) {
                desk.asking = None;
                line("(it is answered, or asked no longer)");
            }
        }
        for question in job.asks {
            let Some(below) = question.job.clone() else {
                continue;
            };
            if desk.known.insert((below, question.run, question.request)) {
                desk.below.push_back(question);
            }
        }
        Ok(())
    }

    /// What a run asks, if it still does.
    async fn question(&self, run: u32) -> Result<Option<api::Question>> {
        loop {
            let path = format!("{}?brief=true", api::path(self.id));
            let job = patiently(self.host, Method::GET, &path, None).await;
            let job: Job = match job {
                Err(failure) if failure.is_not_found() => return Ok(None),
                job => understand(job.map_err(|failure| self.lost(failure))?)?,
            };
            if let Some(question) = job
                .asks
                .into_iter()
                .find(|of| of.run == run && of.job.is_none())
            {
                return Ok(Some(question));
            }
            // It is written down before it is asked.
            let waits = |of: &api::Run| of.run == run && of.state == "suspended";
            let asked = |of: &api::Run| of.answered_by.is_some();
            match job.runs.iter().find(|of| waits(of)) {
                Some(run) if !asked(run) => tokio::time::sleep(LOOK).await,
                _ => return Ok(None),
            }
        }
    }

    /// Something was typed.
    async fn answered(&self, desk: &mut Desk, text: &str) -> Result<()> {
        let Some(asking) = &mut desk.asking else {
            return Ok(());
        };
        let body = match asking.take(text) {
            Taken::More => {
                asking.prompt();
                return Ok(());
            }
            Taken::Whole(body) => body,
        };
        let asks = asking.below().unwrap_or(self.id);
        let path = format!("{}/answer", api::path(asks));
        match patiently(self.host, Method::POST, &path, Some(&body)).await {
            Ok(_) => desk.asking = None,
            Err(Failure::Refused { code, message }) if code == "bad_request" => {
                line(&message);
                asking.again();
                asking.prompt();
            }
            Err(Failure::Refused { message, .. }) => {
                line(&format!("not taken: {message}"));
                desk.asking = None;
            }
            Err(failure) => return Err(self.lost(failure)),
        }
        Ok(())
    }

    /// Says what came of it, once nothing of it is left.
    async fn ended(&self, job: Job, interrupted: Option<i32>) -> Result<u8> {
        if self.json {
            show::print_json(&whole(self.host, self.id).await?)?;
        } else {
            show::print(&timeline::outputs(
                job.outputs.as_ref().unwrap_or(&Value::Null),
            ))?;
            if let Some(remaining) = job.remaining {
                show::print(&format!("remaining: {remaining}\n"))?;
            }
        }
        if job.state == "completed" {
            return Ok(0);
        }
        let why = match job.reason() {
            why if why.is_empty() => String::new(),
            why => format!(": {why}"),
        };
        let state = match job.state.as_str() {
            "failed" => "has failed".to_owned(),
            "cancelled" => "was cancelled".to_owned(),
            other => format!("is {other}"),
        };
        say(&show::plain(&format!("job {} {state}{why}", self.id)));
        Ok(match interrupted {
            Some(signal) if job.state == "cancelled" => 128u8.wrapping_add(signal as u8),
            _ => 1,
        })
    }
}

/// What becomes of it, if it is under way.
async fn pending(cancelling: &mut Option<Asked>) -> Result<Value> {
    match cancelling {
        Some(cancelling) => cancelling.await,
        None => std::future::pending().await,
    }
}
