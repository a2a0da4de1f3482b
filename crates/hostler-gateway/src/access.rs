//! Who may: the token, the `Host`, the `Origin`, and the user at the other end of a Unix socket.

use std::fmt;
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::{ApiError, ErrorCode};
use crate::gateway::Gateway;
use crate::server::Peer;

/// The secret that clients on TCP have to show. Never printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// The token in this file, which is made (0600, with 256 random bits) if there is none. Others' permissions are taken away.
    ///
    /// # Errors
    /// The kernel's; `InvalidData` when what the file holds is no token.
    pub fn load_or_make(path: &Path) -> io::Result<Self> {
        match File::open(path) {
            Ok(file) => {
                let mode = file.metadata()?.permissions().mode();
                if mode & 0o077 != 0 {
                    tracing::warn!(path = %path.display(), "others could read the token; they no longer can");
                    file.set_permissions(Permissions::from_mode(0o600))?;
                }
                let mut text = String::new();
                file.take(4096).read_to_string(&mut text)?;
                let text = text.trim();
                if text.len() < 16 || !text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                    let what = "the token has to be 16 letters and digits or more";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
                Ok(Self(text.to_owned()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(path),
            Err(error) => Err(error),
        }
    }

    fn make(path: &Path) -> io::Result<Self> {
        let token = Self::random()?;
        let new = path.with_extension("new");
        let _ = std::fs::remove_file(&new);
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        writeln!(file, "{}", token.0)?;
        std::fs::rename(&new, path)?;
        Ok(token)
    }

    /// A new one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 32];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += rustix::rand::getrandom(
                &mut bytes[filled..],
                rustix::rand::GetRandomFlags::empty(),
            )?;
        }
        Ok(Self(
            bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        ))
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether this is it, in a time that does not tell how much of it is right.
    fn is(&self, shown: &str) -> bool {
        let (ours, theirs) = (self.0.as_bytes(), shown.as_bytes());
        let differ = ours
            .iter()
            .zip(theirs)
            .fold(ours.len() ^ theirs.len(), |differ, (a, b)| {
                differ | usize::from(a ^ b)
            });
        std::hint::black_box(differ) == 0
    }
}

/// Who may talk to this host.
#[derive(Debug, Clone)]
pub struct Access {
    /// What clients on TCP have to show.
    pub token: Token,
    /// The host part of the address to listen on, besides loopback.
    pub listen_host: Option<String>,
    /// Whose processes may use the Unix socket, besides root's.
    pub uid: u32,
}

impl Access {
    /// Whether this request may go on, before its body is looked at.
    fn judge(&self, peer: Peer, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        match peer {
            Peer::Unix { uid, .. } if uid == self.uid || uid == 0 => Ok(()),
            Peer::Unix { uid, .. } => Err(ApiError::new(
                ErrorCode::Forbidden,
                format!("this host is user {}'s, not user {uid}'s", self.uid),
            )),
            Peer::Tcp { .. } => {
                self.of_this_host(headers)?;
                if uri.path() == "/healthz" {
                    return Ok(());
                }
                self.has_token(uri, headers)
            }
        }
    }

    /// A site that a browser shows may not reach this host, be it by a name of its own that leads here.
    fn of_this_host(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let forbidden = |message: String| Err(ApiError::new(ErrorCode::Forbidden, message));
        let host = headers.get(header::HOST).map(HeaderValue::to_str);
        let Some(Ok(host)) = host else {
            return forbidden("the Host header is missing".into());
        };
        if !self.is_own(host_part(host)) {
            return forbidden(format!("the Host `{}` is not this host's", printable(host)));
        }
        if let Some(origin) = headers.get(header::ORIGIN) {
            let own = origin.to_str().ok().and_then(|origin| {
                origin
                    .strip_prefix("http://")
                    .or_else(|| origin.strip_prefix("https://"))
            });
            if own.is_none_or(|own| !own.eq_ignore_ascii_case(host)) {
                let shown = String::from_utf8_lossy(origin.as_bytes());
                return forbidden(format!(
                    "the Origin `{}` is not this host's",
                    printable(&shown)
                ));
            }
        }
        Ok(())
    }

    fn is_own(&self, host: &str) -> bool {
        if host.eq_ignore_ascii_case("localhost") {
            return true;
        }
        let address = |text: &str| {
            let bare = text
                .strip_prefix('[')
                .and_then(|text| text.strip_suffix(']'));
            bare.unwrap_or(text).parse::<IpAddr>().ok()
        };
        let asked = address(host);
        if asked.is_some_and(|asked| asked.is_loopback()) {
            return true;
        }
        let Some(own) = &self.listen_host else {
            return false;
        };
        match address(own) {
            // Listening everywhere: by whatever address, but by no name, which anybody can point here.
            Some(own) if own.is_unspecified() => asked.is_some(),
            Some(own) => asked == Some(own),
            None => own.eq_ignore_ascii_case(host),
        }
    }

    fn has_token(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        let bearer = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim());
        let in_query = || {
            let query = uri.query()?;
            query
                .split('&')
                .find_map(|pair| pair.strip_prefix("token="))
        };
        match bearer.or_else(in_query) {
            Some(shown) if self.token.is(shown) => Ok(()),
            Some(_) => Err(ApiError::new(
                ErrorCode::Unauthorized,
                "the token is wrong: it is in the file `token` of the state directory",
            )),
            None => Err(ApiError::new(
                ErrorCode::Unauthorized,
                "a token is needed, as `Authorization: Bearer …` or `?token=…`: it is in the file `token` of the state \
                 directory",
            )),
        }
    }
}

/// Takes the token out of the query: nothing behind this needs it.
fn forget_token(uri: &mut Uri) {
    let Some(query) = uri.query().filter(|query| query.contains("token=")) else {
        return;
    };
    let rest: Vec<&str> = query
        .split('&')
        .filter(|pair| !pair.starts_with("token="))
        .collect();
    let path = uri.path();
    let new = if rest.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", rest.join("&"))
    };
    // A part of what was a path and a query is one.
    if let Ok(new) = new.parse() {
        *uri = new;
    }
}

/// The host of `host:port`.
fn host_part(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn printable(text: &str) -> String {
    text.chars()
        .take(100)
        .map(|c| if c.is_control() { '\u{FFFD}' } else { c })
        .collect()
}

/// Lets a request through, or refuses it and logs that.
pub(crate) async fn guard(
    State(gateway): State<Gateway>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(peer) = request.extensions().get::<Peer>().copied() else {
        return ApiError::internal("nobody knows whose connection this is").into_response();
    };
    match gateway
        .access()
        .judge(peer, request.uri(), request.headers())
    {
        Ok(()) => {
            forget_token(request.uri_mut());
            next.run(request).await
        }
        Err(error) => {
            // The path without the query, where a token may be.
            let path = printable(request.uri().path());
            tracing::warn!(%peer, method = %request.method(), path, reason = %error.message, "refused");
            let mut response = error.clone().into_response();
            if error.code == ErrorCode::Unauthorized {
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(listen_host: &str) -> Access {
        Access {
            token: Token("0123456789abcdef".into()),
            listen_host: Some(listen_host.into()),
            uid: 1000,
        }
    }

    fn judge(
        access: &Access,
        peer: Peer,
        uri: &str,
        headers: &[(&str, &str)],
    ) -> Option<ErrorCode> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: header::HeaderName = name.parse().expect("a name");
            map.insert(name, value.parse().expect("a value"));
        }
        let uri = uri.parse().expect("a uri");
        access.judge(peer, &uri, &map).err().map(|error| error.code)
    }

    #[test]
    fn on_tcp_token_host_and_origin_must_be_right() {
        let tcp = Peer::Tcp {
            address: ([127, 0, 0, 1], 5000).into(),
        };
        let right = ("authorization", "Bearer 0123456789abcdef");
        let own = ("host", "127.0.0.1:7717");
        let (no, yes) = (Some(ErrorCode::Forbidden), None);
        let access = access("127.0.0.1");
        for (headers, expected) in [
            (vec![own, right], yes),
            (vec![("host", "localhost:1"), right], yes),
            (vec![("host", "[::1]:7717"), right], yes),
            (vec![own], Some(ErrorCode::Unauthorized)),
            (
                vec![own, ("authorization", "Bearer 0123456789abcdeF")],
                Some(ErrorCode::Unauthorized),
            ),
            (
                vec![own, ("authorization", "Bearer 0123456789abcdef0")],
                Some(ErrorCode::Unauthorized),
            ),
            (
                vec![own, ("authorization", "Basic 0123456789abcdef")],
                Some(ErrorCode::Unauthorized),
            ),
            (
                vec![own, ("authorization", "Bearer")],
                Some(ErrorCode::Unauthorized),
            ),
            (vec![right], no),
            (vec![("host", "evil.example:7717"), right], no),
            (vec![("host", "127.0.0.1.evil.example"), right], no),
            (vec![("host", "10.0.0.1:7717"), right], no),
            (vec![own, right, ("origin", "http://127.0.0.1:7717")], yes),
            (vec![own, right, ("origin", "http://127.0.0.1:7718")], no),
            (vec![own, right, ("origin", "http://localhost:7717")], no),
            (vec![own, right, ("origin", "https://evil.example")], no),
            (vec![own, right, ("origin", "null")], no),
        ] {
            assert_eq!(
                judge(&access, tcp, "/v1/host", &headers),
                expected,
                "{headers:?}"
            );
        }
        assert_eq!(
            judge(&access, tcp, "/v1/host?a=b&token=0123456789abcdef", &[own]),
            None
        );
        assert_eq!(
            judge(&access, tcp, "/v1/host?token=", &[own]),
            Some(ErrorCode::Unauthorized)
        );
        assert_eq!(judge(&access, tcp, "/healthz", &[own]), None);
        assert_eq!(
            judge(&access, tcp, "/healthz", &[("host", "evil.example")]),
            no
        );
    }

    #[test]
    fn listening_everywhere_takes_addresses_and_no_names() {
        let access = access("0.0.0.0");
        assert!(access.is_own("192.168.1.7") && access.is_own("localhost"));
        assert!(!access.is_own("evil.example"));
    }

    #[test]
    fn on_the_unix_socket_the_user_counts() {
        let access = access("127.0.0.1");
        let peer = |uid| Peer::Unix { uid, pid: 1 };
        assert_eq!(judge(&access, peer(1000), "/v1/host", &[]), None);
        assert_eq!(judge(&access, peer(0), "/v1/host", &[]), None);
        for path in ["/v1/host", "/healthz"] {
            let verdict = judge(&access, peer(1001), path, &[]);
            assert_eq!(verdict, Some(ErrorCode::Forbidden));
        }
    }

    #[test]
    fn the_token_is_made_once_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("token");
        let first = Token::load_or_make(&path).expect("a token");
        let mode = std::fs::metadata(&path).expect("the file").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("chmod");
        assert_eq!(Token::load_or_make(&path).expect("a token"), first);
        let mode = std::fs::metadata(&path).expect("the file").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        assert!(!format!("{first:?}").contains(first.reveal()));
        std::fs::write(&path, "short").expect("write");
        let error = Token::load_or_make(&path).expect_err("no token");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
