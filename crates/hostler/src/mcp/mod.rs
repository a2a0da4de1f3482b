//! `hostler mcp`: the background processes of a session, as tools for its agent.
//!
//! A server of the Model Context Protocol on standard input and output. It is a client of the host like any other: what it starts
//! belongs to the session, not to it, and stays when it goes; what *it* has started is all that it ends unasked for by name. That a
//! process is "stopped" is said when nothing that came of it lives and nothing listens any more where it did.

mod asked;
mod delegate;
mod ending;
mod held;
mod server;
mod told;
mod watch;
mod work;

use clap::Args;
use rmcp::ServiceExt;

use crate::client::Place;
use crate::client::error::{Failure, Result};
use hostler_run::say;

/// What `hostler mcp` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    place: Place,
    /// The session whose processes they are (without: HOSTLER_SESSION, which is set for all that runs in one)
    #[arg(long, value_name = "SESSION")]
    session: Option<String>,
}

/// Serves until standard input ends, and returns what to exit with.
pub(crate) fn run(options: &Options) -> u8 {
    match serve(options) {
        Ok(()) => 0,
        Err(failure) => {
            say(&failure.to_string());
            failure.status()
        }
    }
}

fn serve(options: &Options) -> Result<()> {
    let given = options.session.clone();
    let session = given
        .or_else(|| std::env::var("HOSTLER_SESSION").ok())
        .filter(|session| !session.is_empty())
        .ok_or_else(|| {
            Failure::Usage(
                "whose processes they are cannot be told: neither --session nor HOSTLER_SESSION is set"
                    .into(),
            )
        })?;
    // Whether the host answers is found out by each call, and told to the agent: it may come, go, and be taken over.
    let host = options.place.host()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("start", error))?;
    let served = runtime.block_on(async {
        let server = server::Server::new(host, session);
        let serving = match server.serve(rmcp::transport::io::stdio_pipes()).await {
            Ok(serving) => serving,
            // A client that goes before it has said anything.
            Err(rmcp::service::ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
            Err(error) => return Err(Failure::Nonsense(format!("the MCP client: {error}"))),
        };
        let _ = serving.waiting().await;
        Ok(())
    });
    // Standard input may be read by a thread that nothing wakes.
    runtime.shutdown_background();
    served
}
