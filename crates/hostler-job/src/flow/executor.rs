//! What does a step.

use std::time::Duration;

use hostler_agent::PermissionPolicy;

use super::expression::Expression;
use super::name::OutputName;
use super::template::Template;
use crate::problem::At;

/// What does a step.
#[derive(Debug, Clone)]
pub enum Executor {
    /// A program, owned as any process.
    Command(Command),
    /// A turn with an agent.
    Agent(Agent),
    /// A program, again and again until it says yes.
    Poll(Poll),
    /// A person, or whoever answers over the API.
    Input(Ask),
    /// Another flow, as a job below this one.
    Flow(SubFlow),
    /// Time.
    Sleep(Duration),
}

/// Which executor it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExecutorKind {
    /// [`Executor::Command`].
    Command,
    /// [`Executor::Agent`].
    Agent,
    /// [`Executor::Poll`].
    Poll,
    /// [`Executor::Input`].
    Input,
    /// [`Executor::Flow`].
    Flow,
    /// [`Executor::Sleep`].
    Sleep,
}

impl ExecutorKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Command,
        Self::Agent,
        Self::Poll,
        Self::Input,
        Self::Flow,
        Self::Sleep,
    ];

    /// Its word in a file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Agent => "agent",
            Self::Poll => "poll",
            Self::Input => "input",
            Self::Flow => "flow",
            Self::Sleep => "sleep",
        }
    }
}

impl Executor {
    /// Which it is.
    pub fn kind(&self) -> ExecutorKind {
        match self {
            Self::Command(_) => ExecutorKind::Command,
            Self::Agent(_) => ExecutorKind::Agent,
            Self::Poll(_) => ExecutorKind::Poll,
            Self::Input(_) => ExecutorKind::Input,
            Self::Flow(_) => ExecutorKind::Flow,
            Self::Sleep(_) => ExecutorKind::Sleep,
        }
    }

    /// Every text of it into which inputs are put.
    pub fn templates(&self) -> Vec<&At<Template>> {
        match self {
            Self::Command(command) => {
                let files = command.files.iter().map(|(_, path)| path);
                command.program.templates().chain(files).collect()
            }
            Self::Poll(poll) => poll.program.templates().collect(),
            Self::Agent(agent) => [&agent.name, &agent.prompt]
                .into_iter()
                .chain(&agent.cwd)
                .collect(),
            Self::Input(ask) => vec![&ask.prompt],
            Self::Flow(_) | Self::Sleep(_) => Vec::new(),
        }
    }
}

/// A program to start.
#[derive(Debug, Clone)]
pub struct Program {
    /// What is run.
    pub launch: Launch,
    /// Where; below the flow's own, if it is not absolute.
    pub cwd: Option<At<Template>>,
    /// Variables, besides the inputs of the step.
    pub env: Vec<(String, At<Template>)>,
    /// What it reads.
    pub stdin: Option<At<Template>>,
}

impl Program {
    fn templates(&self) -> impl Iterator<Item = &At<Template>> {
        let argv: &[At<Template>] = match &self.launch {
            Launch::Shell(_) => &[],
            Launch::Argv(argv) => argv,
        };
        let env = self.env.iter().map(|(_, value)| value);
        argv.iter().chain(env).chain(&self.cwd).chain(&self.stdin)
    }
}

/// What is run.
#[derive(Debug, Clone)]
pub enum Launch {
    /// A text for `/bin/sh -c`. Nothing is put into it: the step's inputs are variables of its environment, so that none of them can
    /// be taken for a command.
    Shell(At<String>),
    /// A program and its arguments, without a shell.
    Argv(Vec<At<Template>>),
}

/// `command`.
#[derive(Debug, Clone)]
pub struct Command {
    /// What is run.
    pub program: Program,
    /// What its standard output is.
    pub stdout: Stdout,
    /// Files that it writes, whose contents are outputs.
    pub files: Vec<(At<OutputName>, At<Template>)>,
    /// The exit codes with which it has done its work.
    pub success: Vec<i32>,
}

/// What the standard output of a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stdout {
    /// Text, as it comes.
    #[default]
    Text,
    /// One JSON value; the declared outputs are fields of it.
    Json,
}

/// `agent`.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Which of the host's agents.
    pub name: At<Template>,
    /// What it is asked.
    pub prompt: At<Template>,
    /// Where it works; below the flow's own, if it is not absolute.
    pub cwd: Option<At<Template>>,
    /// How often it is told what is wrong with its answer, when that is not what the outputs say.
    pub corrections: u32,
    /// Who answers its requests for permission. Without: as the host says of the agent.
    pub permission: Option<PermissionPolicy>,
}

/// `poll`.
#[derive(Debug, Clone)]
pub struct Poll {
    /// What is run.
    pub program: Program,
    /// The pause between two times.
    pub every: Duration,
    /// When it is over; without, when the exit code is 0.
    pub until: Option<At<Expression>>,
}

/// `input`.
#[derive(Debug, Clone)]
pub struct Ask {
    /// What is asked.
    pub prompt: At<Template>,
}

/// `flow`.
#[derive(Debug, Clone)]
pub struct SubFlow {
    /// Its file, from the directory of this one.
    pub file: At<String>,
}
