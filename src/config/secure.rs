//! The `tls` tables of listeners and backends: read, and their files tried, so that a wrong one is found by `check`.

use std::path::PathBuf;
use std::time::SystemTime;

use rustls::pki_types::ServerName;

use super::BackendTls;
use super::section::{Choices, Section};
use crate::tls::{ClientAuth, ClientFiles, FileProblem, ServerFiles, date};

const CLIENT_AUTHS: &Choices<ClientAuth> = &[
    ("none", Some(ClientAuth::None)),
    ("optional", Some(ClientAuth::Optional)),
    ("required", Some(ClientAuth::Required)),
];

/// The `tls` of a listener; `None` without one, or if a problem was noted.
pub(super) fn of_listener(section: &mut Section<'_>) -> Option<ServerFiles> {
    let is_written = section.has("tls");
    section.child("tls", |section| {
        let (cert, key, ca) = (file(section, "cert"), file(section, "key"), file(section, "ca"));
        let mut client_auth = ClientAuth::None;
        section.choice("client_auth", CLIENT_AUTHS, &mut client_auth);
        if cert.is_none() && key.is_none() && ca.is_none() && client_auth == ClientAuth::None {
            if is_written {
                section.warn("has no cert and key: clients connect without TLS");
            }
            return None;
        }
        match (&ca, client_auth) {
            (None, ClientAuth::Optional | ClientAuth::Required) => {
                section.problem("ca", None, "is needed: the authorities that sign the certificates of clients");
            }
            (Some(_), ClientAuth::None) => {
                let message = "must be \"optional\" or \"required\", since there is a ca: else nobody is asked";
                section.problem("client_auth", None, message);
            }
            _ => {}
        }
        let (cert, key) = pair(section, cert, key)?;
        let files = ServerFiles { cert, key, ca, client_auth };
        match files.load() {
            Ok(loaded) => warn_of_expiry(section, loaded.not_after),
            Err(problem) => note(section, problem),
        }
        Some(files)
    })
}

/// The `tls` of a backend whose URL begins with `rediss://`, or the problem that there is one without such a URL.
pub(super) fn of_backend(section: &mut Section<'_>, is_secure: bool) -> Option<BackendTls> {
    section.child("tls", |section| {
        let (ca, cert, key) = (file(section, "ca"), file(section, "cert"), file(section, "key"));
        let server_name = section.text("server_name", |text| match text {
            "" => Ok(None),
            name => ServerName::try_from(name.to_owned())
                .map(Some)
                .map_err(|_| "must be a DNS name or an IP address".to_owned()),
        });
        let server_name = server_name.flatten();
        let why = "does not exist, since a password would go to whoever answers: for a server with a certificate of \
            its own, name that certificate in tls.ca";
        section.refused("insecure_skip_verify", why);
        if !is_secure {
            for (key, is_written) in [
                ("ca", ca.is_some()),
                ("cert", cert.is_some()),
                ("key", key.is_some()),
                ("server_name", server_name.is_some()),
            ] {
                if is_written {
                    section.problem(key, None, "has a meaning only with a url that begins with rediss://");
                }
            }
            return None;
        }
        let identity = if cert.is_some() || key.is_some() { Some(pair(section, cert, key)?) } else { None };
        let files = ClientFiles { ca, identity };
        match files.load() {
            Ok(loaded) if loaded.not_after != 0 => warn_of_expiry(section, loaded.not_after),
            Ok(_) => {}
            Err(problem) => note(section, problem),
        }
        Some(BackendTls { files, server_name })
    })
}

/// The `tls` table of `[events]`: there exactly if the webhook is `https://`.
pub(super) fn of_webhook(section: &mut Section<'_>, is_secure: bool) -> Option<ClientFiles> {
    section.child("tls", |section| {
        let (ca, cert, key) = (file(section, "ca"), file(section, "cert"), file(section, "key"));
        if !is_secure {
            for (key, is_written) in [("ca", ca.is_some()), ("cert", cert.is_some()), ("key", key.is_some())] {
                if is_written {
                    section.problem(key, None, "has a meaning only with a webhook that begins with https://");
                }
            }
            return None;
        }
        let identity = if cert.is_some() || key.is_some() { Some(pair(section, cert, key)?) } else { None };
        let files = ClientFiles { ca, identity };
        match files.load() {
            Ok(loaded) if loaded.not_after != 0 => warn_of_expiry(section, loaded.not_after),
            Ok(_) => {}
            Err(problem) => note(section, problem),
        }
        Some(files)
    })
}

fn file(section: &mut Section<'_>, key: &'static str) -> Option<PathBuf> {
    section.text(key, |text| Ok(PathBuf::from(text))).filter(|path| !path.as_os_str().is_empty())
}

fn pair(section: &mut Section<'_>, cert: Option<PathBuf>, key: Option<PathBuf>) -> Option<(PathBuf, PathBuf)> {
    if cert.is_none() {
        section.problem("cert", None, "is needed: the certificate, PEM");
    }
    if key.is_none() {
        section.problem("key", None, "is needed: the certificate's key, PEM");
    }
    cert.zip(key)
}

fn note(section: &mut Section<'_>, problem: FileProblem) {
    let FileProblem { key, path, message } = problem;
    section.problem(key, path.map(|path| format!("\"{}\"", path.display())), message);
}

fn warn_of_expiry(section: &mut Section<'_>, not_after: i64) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    if not_after < i64::try_from(now).unwrap_or(i64::MAX) {
        let path = section.path_of("cert");
        section.notes.warn(&path, &format!("expired on {}: nobody who verifies it connects", date(not_after)));
    }
}
