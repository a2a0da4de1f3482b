//! The kernel's lists of sockets: Unix sockets by sock_diag(7), TCP by `/proc/PID/net/tcp` (proc_pid_net(5)).

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::io::Errno;
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// A Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unix {
    /// The socket that it is connected to; 0 when that was closed.
    pub peer: Option<u64>,
    /// Whether it has a name, or was accepted from one that has.
    pub named: bool,
    /// Whether it listens.
    pub listens: bool,
}

/// `SOCK_DIAG_BY_FAMILY`, also the type of an answer.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP`
const DUMP: u16 = 0x301;
const DONE: u16 = 3;
const ERROR: u16 = 2;
/// `UDIAG_SHOW_NAME | UDIAG_SHOW_PEER`
const SHOW: u32 = 1 | 4;
/// `TCP_LISTEN`, which Unix sockets use too.
const LISTEN: u8 = 10;

/// All Unix sockets of this network namespace, by inode.
///
/// # Errors
/// The kernel's; `NOENT` when it was built without this.
pub fn unix() -> Result<HashMap<u64, Unix>, Errno> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(SOCK_DIAG),
    )?;
    let mut request = Vec::with_capacity(40);
    request.extend(40u32.to_ne_bytes());
    request.extend(BY_FAMILY.to_ne_bytes());
    request.extend(DUMP.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([1, 0, 0, 0]); // AF_UNIX
    request.extend(u32::MAX.to_ne_bytes()); // every state
    request.extend(0u32.to_ne_bytes());
    request.extend(SHOW.to_ne_bytes());
    request.extend([0; 8]);
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(&socket, &request, SendFlags::empty(), &kernel)?;
    let mut found = HashMap::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (_, len) = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty())
        })?;
        let mut rest = &buffer[..len.min(buffer.len())];
        while let Some((kind, body)) = message(&mut rest) {
            match kind {
                DONE => return Ok(found),
                ERROR => return Err(Errno::NOENT),
                BY_FAMILY => found.extend(entry(body)),
                _ => {}
            }
        }
    }
}

/// Takes the next message off: its type and what is in it.
fn message<'b>(rest: &mut &'b [u8]) -> Option<(u16, &'b [u8])> {
    let len = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
    let kind = short(rest, 4)?;
    let body = rest.get(16..len)?;
    *rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body))
}

fn entry(body: &[u8]) -> Option<(u64, Unix)> {
    let inode = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
    let mut socket = Unix {
        peer: None,
        named: false,
        listens: body[2] == LISTEN,
    };
    let mut rest = body.get(16..)?;
    while let (Some(len), Some(kind)) = (short(rest, 0), short(rest, 2)) {
        let len = usize::from(len);
        let Some(value) = rest.get(4..len) else { break };
        match kind {
            0 => socket.named = !value.is_empty(),
            2 => {
                socket.peer = value
                    .try_into()
                    .ok()
                    .map(|bytes| u64::from(u32::from_ne_bytes(bytes)));
            }
            _ => {}
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Some((u64::from(inode), socket))
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// An address of TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    /// The host; one of both families is shown as IPv4.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            ip if ip.is_unspecified() => write!(f, "port {}", self.port),
            IpAddr::V4(ip) => write!(f, "{ip}:{}", self.port),
            IpAddr::V6(ip) => write!(f, "[{ip}]:{}", self.port),
        }
    }
}

/// A socket of TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp {
    /// This side.
    pub local: Address,
    /// The other side.
    pub remote: Address,
    /// Whether it listens.
    pub listens: bool,
    /// Whether it is connected.
    pub established: bool,
    /// Its inode; 0 where no process holds it.
    pub inode: u64,
}

/// The inodes of the sockets that a process holds; none where it may not be looked at.
pub fn held(pid: u32) -> Vec<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"));
    entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            let inode = target.to_str()?.strip_prefix("socket:[")?;
            inode.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

/// The TCP sockets of the network namespace that the process is in.
pub fn tcp(pid: u32) -> Vec<Tcp> {
    let files = ["tcp", "tcp6"].map(|file| fs::read_to_string(format!("/proc/{pid}/net/{file}")));
    files
        .iter()
        .flatten()
        .flat_map(|text| text.lines().skip(1))
        .filter_map(tcp_line)
        .collect()
}

fn tcp_line(line: &str) -> Option<Tcp> {
    let mut fields = line.split_whitespace().skip(1);
    let local = address(fields.next()?)?;
    let remote = address(fields.next()?)?;
    let state = fields.next()?;
    Some(Tcp {
        local,
        remote,
        listens: state == "0A",
        established: state == "01",
        inode: fields.nth(5)?.parse().ok()?,
    })
}

/// Words of 32 bits, each in the byte order of the machine, and a port.
fn address(text: &str) -> Option<Address> {
    let (ip, port) = text.split_once(':')?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..ip.len()).step_by(8) {
        let word = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip = match <[u8; 4]>::try_from(&bytes[..]) {
        Ok(four) => IpAddr::V4(Ipv4Addr::from(four)),
        // Both families can talk to each other.
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[..]).ok()?).to_canonical(),
    };
    Some(Address {
        ip,
        port: u16::from_str_radix(port, 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};

    use super::*;

    #[test]
    fn own_connections_are_found() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let table = tcp(std::process::id());
        assert!(
            table
                .iter()
                .any(|one| one.listens && one.local.port == port)
        );
        let own = client.local_addr().unwrap().port();
        let there =
            |one: &&Tcp| one.established && one.local.port == own && one.remote.port == port;
        let found = table.iter().find(there).expect("the client's side");
        assert_eq!(found.remote.to_string(), format!("127.0.0.1:{port}"));
    }

    #[test]
    fn a_listening_unix_socket_is_found() {
        let before = unix().unwrap().values().filter(|one| one.listens).count();
        let _server = {
            let name = format!("hostler-sockets-{}", std::process::id());
            let address = SocketAddr::from_abstract_name(name).unwrap();
            UnixListener::bind_addr(&address).unwrap()
        };
        let after = unix().unwrap();
        assert!(before > 0 || after.values().any(|one| one.listens && one.named));
    }
}
