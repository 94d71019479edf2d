//! Who may change something over HTTP: whoever knows the token, and no web page in an operator's browser.

use std::net::IpAddr;

use axum::http::{HeaderMap, StatusCode, header};

use crate::logic::identity::PasswordHash;

/// Decides over changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guard {
    token: Option<PasswordHash>,
}

/// Why a request is turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// It came from a web page.
    WebPage,
    /// It names a host that anybody could have made point here.
    ForeignHost(String),
    /// Nobody may change anything over HTTP.
    Off,
    /// It does not know the token.
    WrongToken,
}

impl Denied {
    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::WebPage | Self::ForeignHost(_) | Self::Off => StatusCode::FORBIDDEN,
            Self::WrongToken => StatusCode::UNAUTHORIZED,
        }
    }

    pub(super) fn message(&self) -> String {
        match self {
            Self::WebPage => "requests of web pages (with an Origin header) are refused".to_owned(),
            Self::ForeignHost(host) => {
                format!("the host '{host}' is refused: use the IP address, as in http://127.0.0.1:9400, or localhost")
            }
            Self::Off => "changes over HTTP are off: set admin.http_token_file to a file with a secret, restart, and \
                          send 'Authorization: Bearer <secret>'; or use the console"
                .to_owned(),
            Self::WrongToken => {
                "changes need 'Authorization: Bearer <secret>' with the secret in admin.http_token_file".to_owned()
            }
        }
    }
}

impl Guard {
    /// Lets those change something who send `token`; nobody without one.
    #[must_use]
    pub const fn new(token: Option<PasswordHash>) -> Self {
        Self { token }
    }

    /// Browsers say where a request comes from, and which name led them here.
    pub(super) fn admit_reader(headers: &HeaderMap) -> Result<(), Denied> {
        if headers.contains_key(header::ORIGIN) {
            return Err(Denied::WebPage);
        }
        let host = headers.get(header::HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
        match host {
            Some(host) if !is_literal(&host) => Err(Denied::ForeignHost(host.chars().take(100).collect())),
            _ => Ok(()),
        }
    }

    pub(super) fn admit_change(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let token = self.token.ok_or(Denied::Off)?;
        let given = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        // Hashes are compared in constant time.
        match given {
            Some(given) if PasswordHash::of(given) == token => Ok(()),
            _ => Err(Denied::WrongToken),
        }
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer ";
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| token.trim_ascii())
}

/// An address, or `localhost`: no name that somebody else's server resolves.
fn is_literal(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn no_web_page_gets_through() {
        for (pairs, is_admitted) in [
            (&[("host", "127.0.0.1:9400")][..], true),
            (&[("host", "[::1]:9400")], true),
            (&[("host", "LocalHost")], true),
            (&[("host", "10.0.0.7")], true),
            (&[], true),
            (&[("host", "evil.example:9400")], false),
            (&[("host", "127.0.0.1.evil.example")], false),
            (&[("host", "localhost.evil.example")], false),
            (&[("host", "")], false),
            (&[("host", "127.0.0.1:9400"), ("origin", "http://127.0.0.1:9400")], false),
            (&[("host", "127.0.0.1:9400"), ("origin", "null")], false),
        ] {
            assert_eq!(Guard::admit_reader(&headers(pairs)).is_ok(), is_admitted, "{pairs:?}");
        }
    }

    #[test]
    fn changes_need_the_token() {
        let guard = Guard::new(Some(PasswordHash::of(b"a secret of length")));
        for (value, is_admitted) in [
            ("Bearer a secret of length", true),
            ("bearer  a secret of length ", true),
            ("Bearer a secret of lengt", false),
            ("Bearer ", false),
            ("Basic a secret of length", false),
            ("a secret of length", false),
            ("", false),
        ] {
            let outcome = guard.admit_change(&headers(&[("authorization", value)]));
            assert_eq!(outcome.is_ok(), is_admitted, "{value}");
        }
        assert_eq!(guard.admit_change(&headers(&[])), Err(Denied::WrongToken));
        assert_eq!(Guard::new(None).admit_change(&headers(&[("authorization", "Bearer ")])), Err(Denied::Off));
    }
}
