//! Where a host elsewhere is, and the token that it wants.

use std::path::Path;

use hyper::Uri;

use crate::client::error::{Failure, Result};

/// Where the Agent Host Protocol is spoken, where the URL does not say.
const PATH: &str = "/ahp";

/// Where a host is. What it shows of itself is without the token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(super) secure: bool,
    /// A name or an IP address; one of version 6 without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    path: String,
    pub(super) token: Option<String>,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to_string())
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.secure { "wss" } else { "ws" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl Address {
    /// From a URL, with the token from this file, else the URL, else the environment.
    pub(crate) fn find(url: &str, token_file: Option<&Path>) -> Result<Self> {
        let mut address = Self::parse(url)?;
        if let Some(file) = token_file {
            let text = std::fs::read_to_string(file).map_err(|error| {
                Failure::Unclear(format!(
                    "cannot read the token in {}: {error}",
                    file.display()
                ))
            })?;
            address.token = Some(text.trim().to_owned());
        } else if address.token.is_none() {
            let set = std::env::var("HOSTLER_TOKEN").ok();
            address.token = set.filter(|token| !token.is_empty());
        }
        let good = |token: &String| token.bytes().all(|byte| byte.is_ascii_graphic());
        match address.token.as_ref().is_none_or(good) {
            true => Ok(address),
            false => Err(Failure::Unclear("the token is no text of one word".into())),
        }
    }

    /// From a URL alone.
    fn parse(url: &str) -> Result<Self> {
        let wrong = |why: &str| {
            let shown = without_token(url);
            Failure::Usage(format!(
                "`{shown}` is no host's URL: {why}; ws://, wss://, http:// or https://HOST:PORT is allowed"
            ))
        };
        let whole = match url.contains("://") {
            true => url.to_owned(),
            false => format!("http://{url}"),
        };
        let uri: Uri = whole.parse().map_err(|_| wrong("it cannot be read"))?;
        let secure = match uri.scheme_str() {
            Some("ws" | "http") => false,
            Some("wss" | "https") => true,
            _ => return Err(wrong("of another kind")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("it names a user"));
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(wrong("it names no host"));
        }
        let pairs = uri.query().into_iter().flat_map(|query| query.split('&'));
        let token = pairs.filter_map(|pair| pair.strip_prefix("token=")).next();
        let path = uri.path().trim_end_matches('/');
        Ok(Self {
            secure,
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            host,
            path: if path.is_empty() { PATH } else { path }.to_owned(),
            token: token.filter(|token| !token.is_empty()).map(str::to_owned),
        })
    }

    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// A URL as it may be shown.
pub(crate) fn without_token(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_people_write_them() {
        for (url, shown, token) in [
            ("ws://box:8080", "ws://box:8080/ahp", None),
            (
                "http://127.0.0.1:7/?token=abc",
                "ws://127.0.0.1:7/ahp",
                Some("abc"),
            ),
            ("https://box", "wss://box:443/ahp", None),
            (
                "wss://[::1]:9/x/ahp/?a=b&token=t",
                "wss://[::1]:9/x/ahp",
                Some("t"),
            ),
            ("box:8080", "ws://box:8080/ahp", None),
        ] {
            let address = Address::parse(url).expect(url);
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.token.as_deref(), token, "{url}");
            assert_eq!(format!("{address:?}"), shown, "no token");
        }
        for url in [
            "",
            "ftp://box",
            "http://",
            "http://u:p@box/?token=secret",
            "a b",
        ] {
            let failure = Address::parse(url).expect_err(url);
            let line = failure.to_string();
            assert!(!line.contains("secret"), "{line}");
            assert_eq!(failure.status(), 2);
        }
    }
}
