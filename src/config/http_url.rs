//! Addresses of HTTP services, from text.

use std::fmt;

use super::Address;
use super::address::host_port;

const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;
const TARGET_BYTES_MAX: usize = 4096;

/// An address of a service that speaks HTTP/1.1, without user and password: those belong into files and headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl {
    /// With TLS.
    pub is_secure: bool,
    /// The host, an IPv6 literal without its brackets.
    pub host: String,
    /// The port, the scheme's own where none is written.
    pub port: u16,
    /// Path and query; begins with `/`.
    pub target: String,
}

impl HttpUrl {
    /// Reads `http://host:port/path?query` or the same with `https://`.
    ///
    /// # Errors
    /// Says what is wrong, without the text itself: part of it may be a secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (is_secure, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err("must begin with https:// or http://".to_owned()),
        };
        let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(at);
        if authority.contains('@') {
            return Err("takes no user and password".to_owned());
        }
        if target.contains('#') {
            return Err("takes nothing behind a #".to_owned());
        }
        if !target.bytes().all(|byte| byte.is_ascii_graphic()) || target.len() > TARGET_BYTES_MAX {
            return Err(format!("the path is at most {TARGET_BYTES_MAX} printable characters; others are written %20"));
        }
        let (host, port) = host_port(authority)?;
        let port = port.unwrap_or(if is_secure { HTTPS_PORT } else { HTTP_PORT });
        if port == 0 {
            return Err("the port must be between 1 and 65535".to_owned());
        }
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self { is_secure, host, port, target: format!("{slash}{target}") })
    }

    /// Another path and query of the same service.
    #[must_use]
    pub fn at(&self, target: &str) -> Self {
        Self { target: target.to_owned(), ..self.clone() }
    }

    /// Where to connect.
    #[must_use]
    pub fn address(&self) -> Address {
        Address::Tcp(self.host.clone(), self.port)
    }

    /// Host and port as the `Host` header has them: the scheme's own port is left out.
    #[must_use]
    pub fn authority(&self) -> String {
        let own_port = if self.is_secure { HTTPS_PORT } else { HTTP_PORT };
        let whole = self.address().to_string();
        match whole.strip_suffix(&format!(":{own_port}")) {
            Some(host) if self.port == own_port => host.to_owned(),
            _ => whole,
        }
    }
}

impl fmt::Display for HttpUrl {
    /// As it may be logged: path and query can hold a token, as those of webhooks do, so they are left out.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        let hidden = if self.target == "/" { "" } else { "…" };
        write!(formatter, "{scheme}://{}/{hidden}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_are_accepted() {
        for (text, host, port, target, authority, shown) in [
            ("http://host", "host", 80, "/", "host", "http://host/"),
            ("https://host/a/b?c=d", "host", 443, "/a/b?c=d", "host", "https://host/…"),
            ("https://host:9443/v1/bdbs", "host", 9443, "/v1/bdbs", "host:9443", "https://host:9443/…"),
            ("http://127.0.0.1:1?x", "127.0.0.1", 1, "/?x", "127.0.0.1:1", "http://127.0.0.1:1/…"),
            ("http://[::1]:8080/", "::1", 8080, "/", "[::1]:8080", "http://[::1]:8080/"),
            ("https://[::1]/", "::1", 443, "/", "[::1]", "https://[::1]/"),
        ] {
            let url = HttpUrl::parse(text).expect(text);
            assert_eq!((url.host.as_str(), url.port, url.target.as_str()), (host, port, target), "{text}");
            assert_eq!((url.authority().as_str(), url.to_string().as_str()), (authority, shown), "{text}");
            assert_eq!(url.is_secure, text.starts_with("https"), "{text}");
        }
    }

    #[test]
    fn urls_that_are_refused() {
        for (text, message) in [
            ("host", "must begin with"),
            ("ftp://host", "must begin with"),
            ("http://", "the host is missing"),
            ("http://user:secret@host/", "no user"),
            ("http://host/#part", "behind a #"),
            ("http://host:0/", "between 1 and 65535"),
            ("http://host:99999/", "up to 65535"),
            ("http://host/a b", "printable"),
            ("http://host/a\r\nX: y", "printable"),
            ("http://::1/", "brackets"),
        ] {
            let error = HttpUrl::parse(text).expect_err(text);
            assert!(error.contains(message) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
