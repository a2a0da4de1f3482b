//! The table: what the agent is doing, and how it ends.

use std::fmt;

use crate::stage::{Agent, Stage};
use crate::support::{Found, Host, run, wait_until};
use crate::talk::{Editor, Talk};

/// What the agent is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Situation {
    /// Nothing, after a prompt.
    Idle,
    /// Nothing, with an MCP server.
    Mcp,
    /// A shell tool.
    Tool,
    /// It streams.
    Stream,
    /// Nothing, but what a tool left in the background goes on.
    Background,
}

impl Situation {
    pub(crate) const ALL: [Self; 5] = [
        Self::Idle,
        Self::Mcp,
        Self::Tool,
        Self::Stream,
        Self::Background,
    ];
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Its session is closed.
    Close,
    /// Its client is killed.
    ClientCut,
    /// `npm exec`, which others are under and hold the pipes, is killed.
    WrapperKilled,
    /// What the host has started is killed.
    AgentKilled,
    /// The host is told to stop.
    HostTerm,
    /// The host is killed.
    HostKill,
}

impl Ending {
    pub(crate) const ALL: [Self; 6] = [
        Self::Close,
        Self::ClientCut,
        Self::WrapperKilled,
        Self::AgentKilled,
        Self::HostTerm,
        Self::HostKill,
    ];
}

/// What an agent can be brought to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Can {
    pub(crate) shell: bool,
    pub(crate) background: bool,
    pub(crate) wrapped: bool,
}

impl Agent {
    fn can(&self) -> Can {
        Can {
            shell: self.shell,
            background: self.background,
            wrapped: self.wrapped.is_some(),
        }
    }
}

/// One of both.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) situation: Situation,
    pub(crate) ending: Ending,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (situation, ending) = (
            format!("{:?}", self.situation),
            format!("{:?}", self.ending),
        );
        write!(f, "{situation:10} {ending:13}")
    }
}

impl Cell {
    /// Those that are tried with an agent.
    pub(crate) fn of(agent: &Agent) -> Vec<Self> {
        match std::env::var("HOSTLER_TEST_AGENTS").as_deref() {
            Ok("all") => Self::every(agent.can()),
            _ => Self::chosen(agent.can()),
        }
    }

    /// All that there can be.
    pub(crate) fn every(can: Can) -> Vec<Self> {
        let cells = Situation::ALL
            .into_iter()
            .flat_map(|situation| Ending::ALL.map(|ending| Self { situation, ending }));
        cells.filter(|cell| cell.can_be(can)).collect()
    }

    /// Every situation and every ending, not all of both.
    pub(crate) fn chosen(can: Can) -> Vec<Self> {
        use Ending::{AgentKilled, ClientCut, Close, HostKill, HostTerm, WrapperKilled};
        use Situation::{Background, Idle, Mcp, Stream, Tool};
        let cells = [
            (Idle, Close),
            (Mcp, Close),
            (Tool, Close),
            (Stream, Close),
            (Background, Close),
            (Idle, ClientCut),
            (Tool, ClientCut),
            (Idle, WrapperKilled),
            (Tool, WrapperKilled),
            (Tool, AgentKilled),
            (Background, AgentKilled),
            (Idle, HostTerm),
            (Tool, HostTerm),
            (Mcp, HostKill),
            (Tool, HostKill),
            (Background, HostKill),
        ];
        cells
            .into_iter()
            .map(|(situation, ending)| Self { situation, ending })
            .filter(|cell| cell.can_be(can))
            .collect()
    }

    fn can_be(self, can: Can) -> bool {
        let situation = match self.situation {
            Situation::Idle | Situation::Mcp => true,
            Situation::Tool | Situation::Stream => can.shell,
            Situation::Background => can.background,
        };
        situation && (can.wrapped || self.ending != Ending::WrapperKilled)
    }

    /// Tries it, and gives how many processes the agent was at the time.
    pub(crate) fn run(self, stage: &Stage, agent: &str) -> usize {
        let host = stage.host();
        let before = stage.everybody();
        let mut tree = 0;
        let mut host = Some(host);
        run(async {
            let wrapped = self.ending == Ending::WrapperKilled;
            let cut = self.ending == Ending::ClientCut;
            let at = host.as_ref().expect("a host");
            let mut editor = None;
            let talk = if cut {
                let (client, talk) = stage.edit(at, agent, self.situation == Situation::Mcp);
                editor = Some(client);
                talk
            } else {
                let mcp = self.situation == Situation::Mcp;
                stage.open_as(at, agent, mcp, wrapped).await
            };
            self.reach(stage, &talk, &before).await;
            tree = stage.came_since(&before).len();
            self.end(stage, agent, (&talk, &before), &mut host, editor)
                .await;
        });
        match &host {
            Some(_) => stage.nothing_but(&before, agent),
            None => stage.nothing_at_all(agent),
        }
        if let Some(host) = host {
            host.stop();
        }
        stage.nothing_at_all(agent);
        tree
    }

    /// Brings the agent there.
    async fn reach(self, stage: &Stage, talk: &Talk, before: &[Found]) {
        let runs = |name: &str| {
            let found = stage.came_since(before);
            found.iter().any(|found| found.name == name)
        };
        match self.situation {
            Situation::Idle | Situation::Mcp => {
                talk.prompt("hello").await;
            }
            Situation::Tool => {
                // A lone sleep is what some agents refuse.
                talk.begin("BASH: tail -f /dev/null").await;
                wait_until("the tool runs", || runs("tail"));
            }
            Situation::Stream => {
                talk.begin("SLOW 1000").await;
                talk.says("tick").await;
            }
            Situation::Background => {
                talk.prompt("BASH: nohup sleep 10002 > /dev/null 2>&1 & echo started")
                    .await;
                wait_until("the background work runs", || runs("sleep"));
            }
        }
    }

    async fn end(
        self,
        stage: &Stage,
        agent: &str,
        (talk, before): (&Talk, &[Found]),
        host: &mut Option<Host>,
        editor: Option<Editor>,
    ) {
        match self.ending {
            Ending::Close => {
                let report = talk.close().await;
                assert_eq!(report["remaining"], 0, "{report}");
            }
            Ending::ClientCut => drop(editor),
            Ending::WrapperKilled | Ending::AgentKilled => {
                let started = talk.agent_process().await;
                let found = Found::read(started).expect("the agent");
                found.signal(rustix::process::Signal::KILL);
                // Whatever of it is not in the background goes too, though it may hold the pipes.
                wait_until("the agent's processes are gone", || !found.still_lives());
                if self.situation != Situation::Background {
                    stage.nobody_but(before, agent);
                }
                let report = talk.close().await;
                assert_eq!(report["remaining"], 0, "{report}");
            }
            Ending::HostTerm => {
                let (status, said) = host.take().expect("a host").stop();
                assert!(status.success(), "{said}");
            }
            Ending::HostKill => {
                host.take().expect("a host").kill();
                stage.nothing_at_all(agent);
                // The next one clears the directories.
                let next = stage.host();
                stage.no_sessions(&next).await;
                next.stop();
            }
        }
    }
}
