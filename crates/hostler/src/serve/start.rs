//! The start, in its order.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hostler_gateway::access::{Access, Token};
use hostler_keeper::zygote::Zygote;
use hostler_ledger::{HostRun, Ledger, LedgerOptions, OpenError, Opened};

use super::config::{self, Config};
use super::sockets::{self, Sockets};
use super::takeover::Predecessor;
use super::values;
use super::{Options, Refused, lifetime, state};

/// How long the host before may take to let go of the ledger, once it has said that it will.
const LET_GO: Duration = Duration::from_secs(10);

/// How long a host that is still starting is waited for, to be taken over, and how long between two looks.
const COMING: Duration = Duration::from_secs(15);
const AGAIN: Duration = Duration::from_millis(50);

/// What a host is made of, once nothing that can be refused is left.
#[derive(Debug)]
pub(super) struct Parts {
    pub config: Config,
    pub state_dir: PathBuf,
    pub run: HostRun,
    pub ledger: Ledger,
    pub earlier: Vec<HostRun>,
    pub zygote: Zygote,
    pub sockets: Sockets,
    pub access: Access,
    pub predecessor: Option<Predecessor>,
    /// It is one program's, and ends with that.
    pub private: bool,
}

/// Starts, serves, and returns when the host is told to stop.
pub(super) fn serve(options: &Options) -> Result<(), Refused> {
    log();
    let file = file(options.config.as_deref());
    let mut config = Config::read(file.as_deref(), state::variable)?;
    if let Some(listen) = &options.listen {
        config.listen_asked = true;
        config.listen = values::listen(listen).ok_or_else(|| {
            Refused::usage(format!(
                "--listen cannot be `{listen}`: an address and a port, such as 127.0.0.1:7717, or none is allowed"
            ))
        })?;
    }
    let state_dir = state::directory(options.state_dir.as_deref(), state::variable)?;
    state::prepare(&state_dir)?;
    let mut inherited = Sockets::inherited(state::variable)?;

    // While this process has one thread; no keeper is made before the ledger is open.
    let zygote = Zygote::fork().map_err(|error| Refused::failed(error.to_string()))?;
    match open(options, &config, &state_dir, &mut inherited) {
        Ok((run, opened, access, predecessor)) => {
            let parts = Parts {
                config,
                state_dir,
                run,
                ledger: opened.ledger,
                earlier: opened.earlier,
                zygote,
                sockets: inherited,
                access,
                predecessor,
                private: options.private,
            };
            lifetime::run(parts)
        }
        Err(refused) => {
            zygote.dismiss(false);
            Err(refused)
        }
    }
}

/// The configuration: the one that was named, or that of the environment, or the user's own.
pub(super) fn file(asked: Option<&Path>) -> Option<PathBuf> {
    asked
        .map(Path::to_owned)
        .or_else(|| {
            state::variable("HOSTLER_CONFIG")
                .filter(|file| !file.is_empty())
                .map(PathBuf::from)
        })
        .or_else(|| config::default_file(state::variable))
}

type Open = (HostRun, Opened, Access, Option<Predecessor>);

fn open(
    options: &Options,
    config: &Config,
    state_dir: &Path,
    sockets: &mut Sockets,
) -> Result<Open, Refused> {
    state::raise_descriptor_limit();
    // What a zygote that was killed leaves behind comes to this process.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| Refused::failed(format!("cannot become a subreaper: {error}")))?;
    let run = state::this_run()?;
    let token = Token::load_or_make(&state_dir.join("token")).map_err(|error| {
        Refused::failed(format!("{}: {error}", state_dir.join("token").display()))
    })?;
    let until = Instant::now() + COMING;
    let (mut predecessor, opened) = loop {
        let mut predecessor = match options.takeover {
            true => Predecessor::find(state_dir)?,
            false => None,
        };
        if let Some(predecessor) = &mut predecessor {
            take_sockets(predecessor, config, sockets)?;
        }
        let ledger_options = LedgerOptions {
            durability: config.durability,
            wait: match predecessor {
                Some(_) => LET_GO,
                None => Duration::ZERO,
            },
        };
        match Ledger::open_with(state_dir, &run, &ledger_options) {
            Ok(opened) => break (predecessor, opened),
            // There is a host, which is still starting: it can be taken over in a moment.
            Err(OpenError::Locked { .. })
                if options.takeover && predecessor.is_none() && Instant::now() < until =>
            {
                std::thread::sleep(AGAIN);
            }
            Err(error) => return Err(Refused::failed(error.to_string())),
        }
    };
    if options.takeover && predecessor.is_none() {
        tracing::info!("no host runs here: there is nothing to take over");
    }
    let path = sockets::control_path(state_dir);
    sockets.bind(&path)?;
    sockets.bind_tcp(config)?;
    if let Some(predecessor) = &mut predecessor {
        predecessor.taken()?;
    }
    let access = Access {
        token,
        listen_host: config
            .listen
            .as_ref()
            .and_then(|listen| listen.rsplit_once(':'))
            .map(|(host, _)| host.to_owned()),
        uid: rustix::process::geteuid().as_raw(),
    };
    Ok((run, opened, access, predecessor))
}

/// Gets the sockets of the host that runs, and has it let go of all else.
fn take_sockets(
    predecessor: &mut Predecessor,
    config: &Config,
    sockets: &mut Sockets,
) -> Result<(), Refused> {
    for socket in predecessor.sockets()? {
        sockets
            .add(socket)
            .map_err(|error| Refused::failed(format!("a socket that was handed over: {error}")))?;
    }
    // An address that cannot be had is a reason to leave the host alone that runs.
    sockets.bind_tcp(config)?;
    predecessor.let_go()
}

/// Logs to standard error: `HOSTLER_LOG` says what, as in `info` or `hostler_gateway=debug`.
fn log() {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .parse_lossy(state::variable("HOSTLER_LOG").unwrap_or_default());
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
}
