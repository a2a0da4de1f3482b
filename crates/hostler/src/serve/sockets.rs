//! Where the host listens: sockets that it makes, that systemd has made, or that the host before has handed over.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use hostler_gateway::Listening;
use rustix::io::Errno;
use rustix::net::{AddressFamily, sockopt};

use super::Refused;
use super::config::Config;

/// The first descriptor that systemd hands over: sd_listen_fds(3).
const FIRST: i32 = 3;
/// How many connections wait until they are accepted, as far as the kernel lets them.
const BACKLOG: i32 = 1024;

/// All that the host listens on.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    unix: Vec<UnixListener>,
    tcp: Vec<TcpListener>,
}

impl Sockets {
    /// Those that this process was started with, by systemd or by the host that it was before.
    pub(super) fn inherited(get: impl Fn(&str) -> Option<String>) -> Result<Self, Refused> {
        let mut sockets = Self::default();
        let own = get("HOSTLER_SOCKETS").unwrap_or_default();
        for fd in own.split(',').filter_map(|fd| fd.parse().ok()) {
            let given = hostler_keeper::inherit::duplicate(fd);
            given
                .and_then(|socket| sockets.add(socket))
                .map_err(|error| {
                    Refused::failed(format!("descriptor {fd} of HOSTLER_SOCKETS: {error}"))
                })?;
        }
        let pid = get("LISTEN_PID").and_then(|pid| pid.parse::<u32>().ok());
        if pid != Some(std::process::id()) {
            return Ok(sockets);
        }
        let count = get("LISTEN_FDS").and_then(|count| count.parse::<i32>().ok());
        for fd in FIRST..FIRST + count.unwrap_or(0).clamp(0, 64) {
            let refused = |error: Errno| {
                let name = get("LISTEN_FDNAMES").unwrap_or_default();
                Refused::failed(format!("descriptor {fd} of LISTEN_FDS ({name}): {error}"))
            };
            let socket = hostler_keeper::inherit::duplicate(fd).map_err(refused)?;
            sockets.add(socket).map_err(refused)?;
        }
        Ok(sockets)
    }

    /// Takes a listening socket, whatever kind it is.
    pub(super) fn add(&mut self, socket: OwnedFd) -> Result<(), Errno> {
        if !sockopt::socket_acceptconn(&socket)? {
            return Err(Errno::INVAL);
        }
        rustix::io::ioctl_fionbio(&socket, true)?;
        match sockopt::socket_domain(&socket)? {
            AddressFamily::UNIX => self.unix.push(socket.into()),
            AddressFamily::INET | AddressFamily::INET6 => self.tcp.push(socket.into()),
            _ => return Err(Errno::AFNOSUPPORT),
        }
        Ok(())
    }

    /// Makes the Unix socket, if it is still missing. This host has the lock of the state directory, so whatever lies there is left
    /// over.
    pub(super) fn bind(&mut self, path: &Path) -> Result<(), Refused> {
        if !self.has_path(path) {
            self.unix.push(bind_unix(path)?);
        }
        Ok(())
    }

    /// Listens on TCP where it is to, beside the sockets that were given. What nobody asked for is not added to those.
    pub(super) fn bind_tcp(&mut self, config: &Config) -> Result<(), Refused> {
        let Some(address) = &config.listen else {
            self.tcp.clear();
            return Ok(());
        };
        if self.tcp.is_empty() || config.listen_asked && !self.covers(address)? {
            self.tcp.push(bind_tcp(address)?);
        }
        Ok(())
    }

    /// Whether what comes to this address comes to one of the sockets. Port 0 is any.
    fn covers(&self, address: &str) -> Result<bool, Refused> {
        let wanted = resolve(address)?;
        Ok(self.tcp.iter().any(|socket| {
            socket.local_addr().is_ok_and(|has| {
                let port = wanted.port() == 0 || wanted.port() == has.port();
                let everywhere = has.ip().is_unspecified() && has.is_ipv4() == wanted.is_ipv4();
                port && (everywhere || has.ip() == wanted.ip())
            })
        }))
    }

    fn has_path(&self, path: &Path) -> bool {
        let here = |socket: &UnixListener| {
            let address = socket.local_addr().ok();
            address.is_some_and(|address| address.as_pathname() == Some(path))
        };
        path.exists() && self.unix.iter().any(here)
    }

    /// The addresses, as people would write them: the Unix sockets first.
    pub(super) fn addresses(&self) -> Vec<String> {
        let unix = self.unix.iter().filter_map(|socket| {
            let address = socket.local_addr().ok()?;
            Some(format!("unix:{}", address.as_pathname()?.display()))
        });
        let tcp = self.tcp.iter().filter_map(|socket| {
            let address = socket.local_addr().ok()?;
            Some(format!("http://{address}/"))
        });
        unix.chain(tcp).collect()
    }

    /// Whether others than this machine could reach it.
    pub(super) fn is_open_to_others(&self) -> bool {
        self.tcp.iter().any(|socket| {
            let address = socket.local_addr();
            address.is_ok_and(|address| !address.ip().is_loopback())
        })
    }

    /// Further descriptors of the same sockets, to hand over. What waits in them waits on.
    pub(super) fn duplicates(&self) -> std::io::Result<Vec<OwnedFd>> {
        let unix = self.unix.iter().map(AsFd::as_fd);
        let tcp = self.tcp.iter().map(AsFd::as_fd);
        unix.chain(tcp)
            .map(|socket| socket.try_clone_to_owned())
            .collect()
    }

    /// Further descriptors to accept from.
    ///
    /// Must be called in a runtime.
    pub(super) fn listening(&self) -> std::io::Result<Vec<Listening>> {
        let unix = self.unix.iter().map(|socket| {
            let socket = tokio::net::UnixListener::from_std(socket.try_clone()?)?;
            Ok(Listening::Unix(socket))
        });
        let tcp = self.tcp.iter().map(|socket| {
            let socket = tokio::net::TcpListener::from_std(socket.try_clone()?)?;
            Ok(Listening::Tcp(socket))
        });
        unix.chain(tcp).collect()
    }
}

/// Makes a Unix socket that only this user can connect to.
pub(super) fn bind_unix(path: &Path) -> Result<UnixListener, Refused> {
    let failed = |error: std::io::Error| {
        let long = path.as_os_str().len() > 107;
        let why = if long {
            "its path is longer than the 107 bytes that a socket's may have; use another --state-dir".into()
        } else {
            error.to_string()
        };
        Refused::failed(format!("cannot listen on {}: {why}", path.display()))
    };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // Nobody else can come by: the directory is this user's alone.
    let socket = UnixListener::bind(path).map_err(failed)?;
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, private).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    rustix::net::listen(&socket, BACKLOG).map_err(|error| failed(error.into()))?;
    Ok(socket)
}

/// The first that an address means: a name such as `localhost` may mean two.
fn resolve(address: &str) -> Result<SocketAddr, Refused> {
    let found = address
        .to_socket_addrs()
        .map_err(|error| Refused::failed(format!("cannot listen on {address}: {error}")))?
        .next();
    found.ok_or_else(|| Refused::failed(format!("{address} is no address")))
}

fn bind_tcp(address: &str) -> Result<TcpListener, Refused> {
    let failed = |error: std::io::Error| {
        let help = match error.kind() {
            std::io::ErrorKind::AddrInUse => " (another program listens there; see --listen)",
            _ => "",
        };
        Refused::failed(format!("cannot listen on {address}: {error}{help}"))
    };
    let socket = TcpListener::bind(resolve(address)?).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    rustix::net::listen(&socket, BACKLOG).map_err(|error| failed(error.into()))?;
    Ok(socket)
}

/// The sockets in a state directory.
pub(super) fn control_path(state_dir: &Path) -> PathBuf {
    state_dir.join("host.sock")
}

/// Where the next host asks for everything.
pub(super) fn takeover_path(state_dir: &Path) -> PathBuf {
    state_dir.join("takeover.sock")
}
